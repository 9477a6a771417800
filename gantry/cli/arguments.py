"""What a command can be given, read from its dataclass: flags, kinds of values, meanings, defaults."""

import ast
import dataclasses
import importlib
import inspect
import itertools
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

import tyro

_KINDS = {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH"}


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag or a positional argument."""

    name: str
    """`--seed`, `--config.learning-rate`; capitals for a positional argument."""
    kind: str
    """What its values look like; empty for a switch."""
    meaning: str
    default: str
    """Empty where there is none, or where it tells nothing."""
    required: bool = False
    choices: tuple[str, ...] = ()
    group: str = ""
    """Of settings, what they belong to, such as `config.search`."""

    @property
    def positional(self) -> bool:
        """Whether it is given by its place."""
        return not self.name.startswith("-")

    @property
    def negatable(self) -> bool:
        """Whether it is a switch that is on by default."""
        return self.kind == "" and self.default != ""


def arguments_of(command: str) -> type:
    """Return the dataclass of a command's arguments, the one in its module that ends in `Arguments`."""
    module = importlib.import_module(f"gantry.cli.{command}")
    found = [each for each in vars(module).values() if inspect.isclass(each) and each.__name__.endswith("Arguments")]
    (kind,) = [each for each in found if each.__module__ == module.__name__]
    return kind


def flags_of(kind: type, values: object = None, group: str = "") -> Iterator[Flag]:
    """Yield the flags of a dataclass, positional arguments first, then in order; nested settings last.

    Args:
        kind: a dataclass.
        values: an instance with the defaults, where they differ from those of the class.
        group: names of the fields that lead to it, joined by dots.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    meanings = field_docstrings(kind)
    nested: list[tuple[type, object, str]] = []
    flags: list[Flag] = []
    for field in dataclasses.fields(kind):
        default = _default(field) if values is None else getattr(values, field.name)
        prefix = f"{group}." if group else ""
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            nested.append((type(default), default, f"{prefix}{field.name}"))
            continue
        value, notes = _unwrapped(hints[field.name])
        choices = typing.get_args(value) if typing.get_origin(value) is typing.Literal else ()
        positional = tyro.conf.Positional in notes
        flags.append(
            Flag(
                name=field.name.upper() if positional else f"--{prefix}{field.name}".replace("_", "-"),
                kind="" if value is bool else _told(value, notes),
                meaning=meanings.get(field.name, ""),
                default=_shown(default),
                required=default is dataclasses.MISSING,
                choices=tuple(str(each) for each in choices if each is not None),
                group=group,
            )
        )
    yield from sorted(flags, key=lambda flag: not flag.positional)
    for inner, default, path in nested:
        yield from flags_of(inner, default, path)


def field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, also of those that it extends, each in one line."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(each) or each.__module__ == "types":
            continue
        try:
            source = inspect.cleandoc("\n" + inspect.getsource(each))
        except (OSError, TypeError):  # made while the program runs
            continue
        body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                name = typing.cast(ast.Name, field.target).id
                found[name] = " ".join(str(text.value.value).split())
    return found


def _default(field: "dataclasses.Field[object]") -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _unwrapped(hint: object) -> tuple[object, Sequence[object]]:
    """Return a hint without notes and without None, and its notes."""
    notes: Sequence[object] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *notes = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [each for each in typing.get_args(hint) if each is not type(None)]
        hint = rest[0] if len(rest) == 1 else hint
        hint = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    return hint, notes


def _told(hint: object, notes: Sequence[object]) -> str:
    """Return what a value looks like in the words of its notes, or else of its type."""
    words = [each.metavar for each in notes if isinstance(getattr(each, "metavar", None), str)]  # type: ignore[attr-defined]
    several = typing.get_origin(hint) is tuple and typing.get_args(hint)[1:] == (Ellipsis,)
    return f"{words[0]} …" if words and several else words[0] if words else _kind(hint)


def _kind(hint: object) -> str:
    """Return what a value of a type looks like on the command line."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "{" + ",".join(str(each) for each in parts if each is not None) + "}"
    if origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        return f"{_kind(_unwrapped(parts[0])[0])} …"
    if origin is tuple:
        return " ".join(_kind(_unwrapped(part)[0]) for part in parts)
    if origin in (typing.Union, types.UnionType):
        return "|".join(_kind(part) for part in parts if part is not type(None))
    return _KINDS.get(typing.cast(type, hint), "VALUE")


def _shown(default: object) -> str:
    """Return a default as it is written on the command line; empty where it tells nothing."""
    if default is dataclasses.MISSING or default is None or default is False or default in ("", ()):
        return ""
    if isinstance(default, tuple):
        return " ".join(map(_shown, default))
    return "yes" if default is True else f"{default:g}" if isinstance(default, float) else str(default)
