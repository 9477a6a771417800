"""Whole-or-nothing files: written under a temporary name, flushed to disk, then renamed into place.

JSON and safetensors only, so that reading a file never executes code; settings and spaces as JSON values.
"""

import contextlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import xxhash
from gymnasium import spaces

from gantry.errors import CannotWrite, GantryError, shown
from gantry.types import Array, Json, Options, Space

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    import torch

Config = TypeVar("Config")
Tensor = TypeVar("Tensor")

TEMPORARY = ".gantry-"
"""What the names of files that are being written begin with."""
begin_checksum = xxhash.xxh3_64
"""Begin the checksum of bytes that are given to its `update`, one after another: XXH3, of 64 bits."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed and renamed onto `path`, else removed.

    The temporary name keeps the suffix of `path`, which encoders go by. What a kill leaves of it,
    `remove_temporaries` and `remove_abandoned` clear away.

    Raises:
        CannotWrite: the folder cannot be made or written, or the disk is full; `path` is as it was before.
    """
    temporary: Path | None = None
    lock: int | None = None
    try:
        if "\0" in str(path):
            raise OSError("a name cannot hold a null character")
        path.parent.mkdir(parents=True, exist_ok=True)
        while temporary is None or not temporary.exists():  # else it was taken for abandoned before it was locked
            _close(lock)
            lock, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=path.suffix, dir=path.parent)
            temporary = Path(name)
            lock = _locked(lock)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        temporary = None
        _flush_folder(path.parent)
    except OSError as error:
        raise CannotWrite(
            f"cannot write {shown(path)}: {error.strerror or error}; choose a folder you can write to, with free space"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        _close(lock)


def _locked(handle: int) -> int | None:
    """Lock a file that is being written, until it is closed; where systems have no locks, close it."""
    if sys.platform == "win32":
        os.close(handle)
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def remove_abandoned(folder: Path) -> None:
    """Remove what writers that were killed left in a folder where others may be writing, which hold locks."""
    if sys.platform == "win32":
        return
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):  # a folder, or one that is being written
            handle = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(beside(path), ignore_errors=True)
                path.unlink()
            finally:
                os.close(handle)


def beside(temporary: Path) -> Path:
    """Return the folder for what is needed while a file is written, beside its temporary path."""
    return temporary.with_name(f"{temporary.name}.parts")


def remove_temporaries(folder: Path) -> None:
    """Remove what writers that were killed left in a folder, while no other process writes there."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{TEMPORARY}*"):
            path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut, where the system lets folders be flushed."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    write_bytes(path, text.encode())


def json_bytes(content: Options) -> bytes:
    """Return `content` as a file of indented JSON."""
    return (json.dumps(content, indent=2) + "\n").encode()


def write_json(path: Path, content: Options) -> None:
    """Write `content` to `path` as indented JSON, whole or not at all."""
    write_bytes(path, json_bytes(content))


def read_json(path: Path) -> Json:
    """Read a JSON object from `path`.

    Raises:
        GantryError: the file is missing, unreadable, or holds no JSON object.
    """
    return read_json_and_checksum(path)[0]


def read_json_and_checksum(path: Path) -> tuple[Json, str]:
    """Read a JSON object from `path`; return it and the checksum of the file's bytes.

    Raises:
        GantryError: the file is missing, unreadable, or holds no JSON object.
    """
    try:
        if "\0" in str(path):
            raise OSError("a name cannot hold a null character")
        text = path.read_bytes()
        content = json.loads(text.decode("utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair could be read, but never written
    except OSError as error:
        raise GantryError(
            f"cannot read {shown(path)}: {error.strerror or error}; did `gantry train` make this folder?"
        ) from error
    except (ValueError, RecursionError) as error:
        raise GantryError(f"{shown(path)} is damaged (no JSON: {shown(error)}); restore it or train again") from error
    if not isinstance(content, dict):
        raise GantryError(f"{shown(path)} is damaged (a JSON object is expected); restore it or train again")
    return content, checksum(text)


def save_tensors(path: Path, tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors, with string metadata in the header, to `path` as one safetensors file.

    The header is written last, with the checksum of itself and of all tensors.

    Args:
        path: the file.
        tensors: any dtypes and devices.
        metadata: what belongs to them.
    """
    contents = _contents(tensors)
    # A dictionary of several entries is read in random order by the library; one entry of text keeps it.
    header = _header(contents, json.dumps(dict(metadata or {}), sort_keys=True))

    with replacing(path) as temporary, temporary.open("wb", buffering=0) as file:
        file.seek(8 + len(header))
        found = begin_checksum(header)
        for piece in _pieces(contents):
            _write_all(file, piece.data)
            found.update(piece.data)  # while the processor's cache holds it
        header = header.replace(NO_CHECKSUM, found.hexdigest().encode(), 1)
        file.seek(0)
        _write_all(file, len(header).to_bytes(8, "little") + header)


def _write_all(file: IO[bytes], content: bytes | memoryview) -> None:
    """Write all of `content` to an unbuffered file, in as few calls as the system allows."""
    while written := file.write(content):
        content = content[written:]


def load_tensors(path: Path) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    """Read the tensors and the metadata of a file that `save_tensors` wrote.

    Raises:
        GantryError: the file is missing or damaged, or has no checksum.
    """
    return _with_checksum(path, *read_tensors(path))


def load_arrays(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a file as `load_tensors` does, but to NumPy's arrays, so that PyTorch is not imported."""
    return _with_checksum(path, *_read(path, "np"))


def read_tensors(path: Path) -> tuple[dict[str, "torch.Tensor"], dict[str, str], bool]:
    """Return the tensors and the metadata of any safetensors file, and whether it has a checksum, which fits then.

    Raises:
        GantryError: the file is missing or damaged, or it is not a safetensors file.
    """
    return _read(path, "pt")


def _with_checksum(
    path: Path, arrays: dict[str, Tensor], metadata: dict[str, str], has_checksum: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not has_checksum:
        raise GantryError(
            f"{shown(path)} is damaged, or an earlier version of Gantry wrote it (it has no checksum); train again"
        )
    return arrays, metadata


def _read(path: Path, framework: str) -> tuple[dict[str, Any], dict[str, str], bool]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise GantryError(f"cannot read {path}: no such file; is this a folder that `gantry train` made?")
    try:
        with safe_open(path, framework=framework) as file:
            entries = file.metadata() or {}
            text = entries.get("metadata", "{}")
            metadata = json.loads(text)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise GantryError(f"{path} is damaged or no safetensors file ({error}); restore it or train again") from error
    if not isinstance(metadata, dict):
        raise GantryError(f"{path} is damaged (its metadata is not a JSON object); restore it or train again")
    if "checksum" not in entries:
        return arrays, metadata, False
    contents = _contents(arrays)
    found = begin_checksum(_header(contents, text))
    for content in contents.values():
        found.update(content.data.data)
    if entries["checksum"] != found.hexdigest():
        raise GantryError(f"{shown(path)} is damaged (its checksum does not fit); restore it or train again")
    return arrays, metadata, True


NO_CHECKSUM = b"-" * 16
"""What stands in a header in place of its checksum."""
PIECE = 2**19
"""Bytes that are written at once."""
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""PyTorch's and NumPy's names of types → safetensors'."""


class _Content(NamedTuple):
    """A tensor as it stands in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: Array
    """Its bytes (n,)."""


def _contents(tensors: Mapping[str, "torch.Tensor | Array"]) -> dict[str, _Content]:
    """Return tensors or arrays in the order of a file, in which each is aligned to its numbers' size."""
    contents = {}
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        tensor, dtype = tensors[name], str(tensors[name].dtype).removeprefix("torch.")
        if isinstance(tensor, np.ndarray):
            data = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
        else:
            import torch

            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        contents[name] = _Content(DTYPES.get(dtype, dtype), tuple(tensor.shape), data)
    return contents


def _header(contents: Mapping[str, _Content], metadata: str) -> bytes:
    """Return a safetensors header without its checksum, in place of which stands `NO_CHECKSUM`."""
    entries: Json = {"__metadata__": {"checksum": NO_CHECKSUM.decode(), "metadata": metadata}}
    end = 0
    for name, content in contents.items():
        start, end = end, end + len(content.data)
        entries[name] = {"dtype": content.dtype, "shape": content.shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _pieces(contents: Mapping[str, _Content]) -> Iterator[Array]:
    """Yield bytes one after another: those of short tensors together, those of long ones in pieces."""
    short: list[Array] = []
    length = 0
    for _, _, data in contents.values():
        if short and length + len(data) > PIECE:
            yield np.concatenate(short)
            short, length = [], 0
        if len(data) < PIECE:
            short.append(data)
            length += len(data)
        else:
            yield from (data[start : start + PIECE] for start in range(0, len(data), PIECE))
    if short:
        yield np.concatenate(short)


def checksum(content: bytes) -> str:
    """Return the checksum of bytes as text."""
    return begin_checksum(content).hexdigest()


def config_to_json(config: object) -> Json:
    """Return a settings dataclass as JSON values, every default written out, NumPy's numbers as Python's."""
    values: Json = msgspec.to_builtins(config, enc_hook=np.generic.item)
    return values


def config_from_json(kind: type[Config], content: Options, where: str) -> Config:
    """Return the settings dataclass `kind` from JSON values; what is absent keeps its default.

    Raises:
        GantryError: an unknown setting, or a value of the wrong type or out of range.
    """
    try:
        config = msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise GantryError(f"{where}: a setting has a wrong value: {error}") from error
    unknown = _unknown(content, config_to_json(config))
    if unknown:
        raise GantryError(f"{where}: unknown setting {unknown[0]!r}")
    return config


def _unknown(content: Options, known: Options) -> list[str]:
    """Return the names in `content`, nested ones included, that `known` does not have."""
    names = [name for name in content if name not in known]
    for name, value in content.items():
        if isinstance(value, dict) and isinstance(known.get(name), dict):
            names += _unknown(value, known[name])
    return names


def space_to_json(space: Space) -> Json:
    """Describe a space that agents handle in JSON values, exactly; null is an infinite bound."""
    if isinstance(space, spaces.Dict):
        return {"type": "dictionary", "spaces": {key: space_to_json(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "tuple", "spaces": [space_to_json(part) for part in space.spaces]}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "multi-binary", "n": np.array(space.n).tolist()}
    dtype = str(space.dtype)
    if isinstance(space, spaces.Discrete):
        return {"type": "discrete", "n": int(space.n), "start": int(space.start), "dtype": dtype}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "multi-discrete", "nvec": space.nvec.tolist(), "start": space.start.tolist(), "dtype": dtype}
    assert isinstance(space, spaces.Box)
    bounds = {
        name: [value if bounded else None for value, bounded in zip(values.ravel().tolist(), finite.flat, strict=True)]
        for name, values, finite in (
            ("low", space.low, space.bounded_below & np.isfinite(space.low)),
            ("high", space.high, space.bounded_above & np.isfinite(space.high)),
        )
    }
    return {"type": "box", "shape": list(space.shape), "dtype": dtype, **bounds}


def space_from_json(description: Any) -> Space:
    """Return the space that `space_to_json` described.

    Raises:
        ValueError, TypeError, KeyError, OverflowError, AssertionError: the description is not of a space.
    """
    kind = description["type"]
    if kind == "dictionary":  # pairs keep their order, which a dictionary's would lose
        return spaces.Dict([(str(key), space_from_json(part)) for key, part in description["spaces"].items()])
    if kind == "tuple":
        return spaces.Tuple([space_from_json(part) for part in description["spaces"]])
    if kind == "multi-binary":
        n = description["n"]
        return spaces.MultiBinary(int(n) if isinstance(n, int) else [int(length) for length in n])
    dtype: Any = np.dtype(str(description["dtype"]))
    if dtype.kind not in "biuf":
        raise ValueError(f"{dtype} is not a numeric type")
    if kind == "discrete":
        return spaces.Discrete(int(description["n"]), start=int(description["start"]), dtype=dtype.type)
    if kind == "multi-discrete":
        return spaces.MultiDiscrete(description["nvec"], dtype, start=description["start"])
    if kind != "box":
        raise ValueError(f"unknown space {kind!r}")
    shape = tuple(int(length) for length in description["shape"])
    infinite = (-math.inf, math.inf) if dtype.kind == "f" else (0, 1)
    if dtype.kind in "iu":
        infinite = (np.iinfo(dtype).min, np.iinfo(dtype).max)

    def bound(name: str, otherwise: float) -> Array:
        values = [otherwise if value is None else value for value in description[name]]
        return np.array(values, dtype).reshape(shape)

    box = spaces.Box(bound("low", infinite[0]), bound("high", infinite[1]), shape=shape, dtype=dtype)
    box.bounded_below, box.bounded_above = (
        np.array([value is not None for value in description[name]], np.bool_).reshape(shape)
        for name in ("low", "high")
    )
    return box
