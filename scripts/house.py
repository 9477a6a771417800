"""Print the figures of the house: how much there is to read, and how it hangs together. `python -m scripts.house`."""

import ast
import functools
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "gantry"

LATER = {
    "memory (recurrent PPO)": ("recurrent_ppo", "parts.recurrent_policy", "parts.episode_memory"),
    "a centralized critic": ("parts.centralized_critic",),
    "data sets": ("parts.experience",),
    "checksums and checks of files": ("parts.tensor_checks", "parts.policy_format"),
    "a message where numbers diverge": ("parts.divergence",),
}
"""What was added to the agents after their bound on code lines was set: what for → modules of gantry.agents."""
MOVED = ("optimizers", "spaces.maps", "spaces.observation_checks", "settings.fields", "machine.threads")
"""Modules and packages that stood in gantry.agents when the bounds were set, and stand below it now."""


def modules(root: Path = PACKAGE) -> dict[str, Path]:
    """Return every module of the package: name → file."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Return a file's syntax tree; treat it as read-only."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, known: dict[str, Path], typing_only: bool = False, late: bool = True) -> set[str]:
    """Return the modules among `known` that a file imports.

    Args:
        path: the file.
        known: name → file of the modules that count.
        typing_only: also those imported under `if TYPE_CHECKING:`.
        late: also those imported within functions, when they are called.
    """
    found = set()
    for node in _imports(parsed(path), typing_only, late):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif node.module in known:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known.keys()
            if names - known.keys():
                found.add(node.module)
    return found


def _imports(tree: ast.AST, typing_only: bool, late: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and not late:
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and not typing_only and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from _imports(other, typing_only, late)
        else:
            yield from _imports(node, typing_only, late)


def closure(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Return `start` and all that it imports, directly or not."""
    found, waiting = {start}, [start]
    while waiting:
        for name in graph[waiting.pop()] - found:
            found.add(name)
            waiting.append(name)
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another, directly or not."""
    reached = {name: closure(name, graph) for name in graph}
    groups = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in graph}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def lines(path: Path) -> int:
    """Return the number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def code_lines(path: Path) -> int:
    """Return the number of lines that hold code: neither blank, nor comment, nor docstring."""
    text = path.read_text(encoding="utf-8")
    prose: set[int] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - prose)


def uses_of_any(path: Path) -> int:
    """Return how often `Any` stands in a file's annotations and type expressions, its import not counted."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(parsed(path)))


def derived_classes(path: Path) -> list[str]:
    """Return the classes of a file that have a base class other than Protocol or a generic one of typing."""
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base) for base in node.bases]
            if any(base.partition("[")[0] not in ("Protocol", "NamedTuple", "Generic") for base in bases):
                found.append(f"{node.name}({', '.join(bases)})")
    return found


def main() -> None:
    """Print the figures."""
    known = modules()
    graph = {name: imports(path, known) for name, path in known.items()}
    agents = {name: path for name, path in known.items() if name.startswith("gantry.agents")}
    moved = [f"gantry.{name}" for name in MOVED]
    algorithms = {name: path for name, path in agents.items() if name.count(".") == 2 and path.name != "__init__.py"}
    at_once = {name: imports(path, known, late=False) for name, path in known.items()}
    read = {name for name in closure("gantry.agents.ppo", at_once) if name in agents and name != "gantry.agents"}
    late = {name for name in closure("gantry.agents.ppo", graph) if name in agents and name != "gantry.agents"} - read
    derived = {name: derived_classes(path) for name, path in algorithms.items()}
    print(f"lines of ppo.py: {lines(known['gantry.agents.ppo'])} (at most 350)")
    print(
        f"import closure of ppo.py in gantry.agents: {sum(lines(known[name]) for name in read)} lines (at most 1,700)"
    )
    for name in sorted(read):
        print(f"    {name.removeprefix('gantry.agents.')}: {lines(known[name])}")
    below = {name for name in closure("gantry.agents.ppo", at_once) if name.startswith(tuple(moved))}
    print(f"    and in what once stood there: {sum(lines(known[name]) for name in below)} lines")
    print(f"imported only where a task or a call needs it: {sum(lines(known[name]) for name in late)} lines")
    for name in sorted(late):
        print(f"    {name.removeprefix('gantry.agents.')}: {lines(known[name])}")
    counts = {name.removeprefix("gantry.agents."): code_lines(path) for name, path in agents.items()}
    without = sum(counts.values()) - counts["sac"]
    added = {what: sum(counts.get(name, 0) for name in names) for what, names in LATER.items()}
    print(f"code lines of agents/ without sac.py: {without}")
    print(f"    in modules that were there when the bound was set: {without - sum(added.values())} (at most 5,142)")
    for what, number in added.items():
        print(f"    in modules added later, for {what}: {number}")
    outside = sum(code_lines(path) for name, path in known.items() if name.startswith(tuple(moved)))
    print(f"    in modules that stood there when the bound was set, and stand below now: {outside}")
    print(f"uses of Any in gantry/: {sum(map(uses_of_any, known.values()))} (at most 90)")
    root = sorted(path.stem for path in PACKAGE.glob("*.py"))
    print(f"modules at the root: {', '.join(root)}")
    print(f"circles of imports: {circles(graph) or 'none'}")
    print("classes of agents/*.py with a base class other than Protocol:")
    for name, classes in derived.items():
        for each in classes:
            print(f"    {name.removeprefix('gantry.agents.')}: {each}")


if __name__ == "__main__":
    main()
