"""Make the pages of the documentation site that docs/ does not hold: hooks that `mkdocs build` calls (`make site`).

- The navigation is that of docs/index.md: its sections and the pages that they name, in that order.
- Every module of the package gets a page: its docstrings, then its source. So do contributing, changes and scripts.
- Links from docs/ to such files lead to these pages; of a link to any other file outside docs/, the text stays.
"""

import json
import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md", "scripts/README.md": "scripts.md"}
"""Pages outside docs/ that the site has too, relative to the repository → their place in the site."""
NOT_DOCUMENTED = ("gantry.cli", "gantry.__main__")
"""Modules without a page, and those below them: `gantry --help` documents them."""
LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<target>[^()\s]+)\)")
CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]*`)", re.M | re.S)
Nav = list[dict[str, "str | Nav"] | str]


def modules() -> dict[str, Path]:
    """Return the modules that have a page, by name; a package counts as its `__init__.py`."""
    found = {}
    for path in sorted((ROOT / "gantry").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not any(name == each or name.startswith(f"{each}.") for each in NOT_DOCUMENTED):
            found[name] = path
    return found


def module_page(name: str) -> str:
    """Return the place of a module's page in the site."""
    return f"api/{name}.md"


def place(path: Path) -> str | None:
    """Return the place in the site of what lies at `path` in the repository; None where it has none."""
    inside = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
    if path == DOCS / "measurements":
        return "measurements/index.md"
    if path.is_relative_to(DOCS):
        if path.is_dir():
            path /= "index.md"
            if not path.exists():
                return None
        return re.sub(r"\.ipynb$", ".md", path.relative_to(DOCS).as_posix())
    if inside in OUTSIDE:
        return OUTSIDE[inside]
    name = inside.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
    return module_page(name) if name in modules() else None


def with_links(text: str, source: Path, page: str) -> str:
    """Return a page's Markdown with its links to files as links within the site.

    Args:
        text: the Markdown.
        source: the file that its links are relative to.
        page: its place in the site.
    """

    def linked(found: re.Match[str]) -> str:
        target, _, anchor = found["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return found[0]
        there = place(Path(os.path.normpath(source.parent / target)))
        if there is None:
            return found["text"].lstrip("!")[1:-1]
        return f"{found['text']}({posixpath.relpath(there, posixpath.dirname(page))}{'#' * bool(anchor)}{anchor})"

    parts = CODE.split(text)  # every second part is code, which has no links but may stand in the text of one
    kept = parts[1::2]
    marked = "".join(f"\0{index // 2}\0" if index % 2 else part for index, part in enumerate(parts))
    return re.sub(r"\0(\d+)\0", lambda found: kept[int(found[1])], LINK.sub(linked, marked))


def navigation() -> Nav:
    """Return the navigation: the sections of docs/index.md with their pages, then scripts and modules."""
    sections: Nav = [{"Home": "index.md"}]
    pages: Nav = []
    for line in (DOCS / "index.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\*\*(.+)\*\*", line):
            pages = []
            sections.append({heading[1]: pages})
        for title, target in re.findall(r"\[([^\]]+)\]\(([^)]+)\)", line):
            there = place(Path(os.path.normpath(DOCS / target)))
            if there is not None and there.endswith("/index.md"):
                pages.append({title.strip("/"): below(there)})
            elif there is not None:
                pages.append({title: there})
    sections.append({"Scripts": "scripts.md"})
    sections.append({"Modules": [{name: module_page(name)} for name in modules()]})
    return sections


def below(index: str) -> Nav:
    """Return a folder's index and its other pages, by name."""
    folder = (DOCS / index).parent
    return [index, *sorted(f"{folder.name}/{path.name}" for path in folder.glob("*.md") if path.name != "index.md")]


def measurements() -> str:
    """Return a page that lists those of docs/measurements."""
    lines = ["# Measurements", "", "Tuning records and details, a page per topic.", ""]
    for path in sorted((DOCS / "measurements").glob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"


def module_text(name: str, path: Path) -> str:
    """Return the page of a module."""
    source = path.read_text(encoding="utf-8").rstrip()
    where = path.relative_to(ROOT).as_posix()
    return (
        f"# {name}\n\n`{where}`\n\n::: {name}\n\n"
        f"## Source of {path.name} {{ data-search-exclude }}\n\n````python\n{source}\n````\n"
    )


def notebook_text(path: Path) -> str:
    """Return a notebook as Markdown: its text, its code, and what that showed."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
            if "image/png" in data:
                parts.append(
                    f'<img alt="what the code above drew" src="data:image/png;base64,{data["image/png"].strip()}">'
                )
            elif "text/html" in data:
                parts.append(f"<div>{data['text/html'].strip()}</div>")
            elif "text/plain" in data:
                parts.append(f"```\n{data['text/plain']}\n```")
    parts.append(f"[The notebook]({path.name}) as a file.")
    return "\n\n".join(parts) + "\n"


def on_config(config: "MkDocsConfig") -> None:
    """Set the navigation."""
    config.nav = navigation()


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages that docs/ does not hold."""
    from mkdocs.structure.files import File

    made = {module_page(name): module_text(name, path) for name, path in modules().items()}
    for inside, page in OUTSIDE.items():
        made[page] = with_links((ROOT / inside).read_text(encoding="utf-8"), ROOT / inside, page)
    for path in sorted((DOCS / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        text, _, own = notebook_text(path).rpartition("\n\n")
        made[page] = f"{with_links(text, path, page)}\n\n{own}"
    made["measurements/index.md"] = measurements()
    made["assets/iframe-worker.js"] = (ROOT / "scripts" / "iframe-worker.js").read_text(encoding="utf-8")
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Lead links to files outside docs/ to their pages."""
    source = page.file.abs_src_path
    return with_links(markdown, Path(source), page.file.src_uri) if source else markdown
