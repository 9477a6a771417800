"""Minari's format: `data/main_data.hdf5` with a group per episode, and `data/metadata.json`. No pickle.

Of each episode of T steps: observations (T + 1, …), actions, rewards, terminations and truncations (T, …), and infos
(T + 1, …), whose first row, of the reset, is empty. A dictionary is a group, a tuple a group of `_index_0` and so on.
"""

import contextlib
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from gantry.agents.parts.experience import Experience
from gantry.envs.registry import registered_id
from gantry.errors import CannotWrite, GantryError, described, shown
from gantry.files import TEMPORARY, read_json, write_json
from gantry.machine.memory import require_memory
from gantry.runs.folder_lock import FolderLock
from gantry.spaces.maps import ObservationMap
from gantry.types import Array, Json, Observation, Options, Space

if TYPE_CHECKING:
    import h5py

MINARI_VERSION = "0.5.4"
"""The version whose format is written."""
NEEDED = "pip install 'gantry-rl[datasets]'"
STEP_PARTS = ("rewards", "terminations", "truncations")


def import_h5py() -> None:
    """Refuse to go on without h5py (GantryError)."""
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise GantryError(f"data sets need the h5py package: {NEEDED}") from error


def space_description(space: Space) -> Json:
    """Return a space as Minari describes it in JSON.

    Raises:
        GantryError: Minari has no description of it.
    """
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "subspaces": {key: space_description(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "subspaces": [space_description(part) for part in space.spaces]}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": np.array(space.n).tolist()}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "dtype": "int64", "start": int(space.start), "n": int(space.n)}
    dtype = str(space.dtype)
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "dtype": dtype, "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.Box):
        bounds = {"low": space.low.tolist(), "high": space.high.tolist()}
        return {"type": "Box", "dtype": dtype, "shape": list(space.shape), **bounds}
    raise GantryError(f"a data set cannot hold {shown(space)}")


def leaves(tree: Observation, name: str) -> Iterator[tuple[str, Array]]:
    """Yield the arrays of nested dictionaries and tuples with their paths in the file."""
    if isinstance(tree, Mapping):
        for key, part in tree.items():
            yield from leaves(part, f"{name}/{key}")
    elif isinstance(tree, tuple):
        for index, part in enumerate(tree):
            yield from leaves(part, f"{name}/_index_{index}")
    else:
        yield name, np.asarray(tree)


class _Content:
    """A file for HDF5, which crashes where writing fails: the failure is kept for `check`, and what follows is lost.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._failure: OSError | None = None
        self.seek, self.tell, self.read, self.readinto = (
            self._file.seek,
            self._file.tell,
            self._file.read,
            self._file.readinto,
        )

    def write(self, content: memoryview) -> int:
        """Write at the current place."""
        written = 0
        with self._kept():
            while written < len(content):
                written += self._file.write(content[written:])
        return len(content)

    def truncate(self, size: int) -> int:
        """Set the length."""
        with self._kept():
            self._file.truncate(size)
        return size

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def check(self) -> None:
        """Raise the first failure."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> int:
        """Close the file, and return its length."""
        if self._file.closed:
            return 0
        size = self._file.seek(0, 2)
        self._file.close()
        return size

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failure = self._failure or error


class DatasetWriter:
    """Writes a data set, which is in its place once `finish` has been called, and not at all where it is not.

    Args:
        folder: of the data set; its name, such as `swing-up-v0`, is the data set's id.
        env: gives the spaces.
        env_id: of the environment.
        env_options: of the environment.
        algorithm: that made the episodes.

    Raises:
        GantryError: there is such a folder already, its name is not a data set's, or h5py is not installed.
    """

    def __init__(self, folder: Path, env: VectorEnv, env_id: str, env_options: Options, algorithm: str) -> None:
        import_h5py()
        import h5py

        if not re.fullmatch(r"[-_\w]+?-v\d+", folder.name):
            raise GantryError(f"a data set's folder is called NAME-vN, such as swing-up-v0, not {shown(folder.name)!r}")
        if folder.exists():
            raise GantryError(f"{shown(folder)} exists already; choose another folder, such as the next version")
        self._folder = folder
        self._temporary = folder.with_name(f"{TEMPORARY}{folder.name}")
        self._lock = FolderLock(self._temporary)  # a kill leaves the folder, but no lock on it
        if not self._lock.acquire():
            raise GantryError(f"another process is writing {shown(folder)}; wait for it, or choose another folder")
        self._metadata: Json = {
            "dataset_id": folder.name,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "minari_version": MINARI_VERSION,
            "algorithm_name": algorithm,
            "author": [],
            "author_email": [],
            "code_permalink": "",
            "requirements": [],
            "observation_space": json.dumps(space_description(env.single_observation_space)),
            "action_space": json.dumps(space_description(env.single_action_space)),
            "env_spec": _env_spec(env_id, env_options),
        }
        try:
            shutil.rmtree(self._temporary / "data", ignore_errors=True)
            (self._temporary / "data").mkdir()
            self._content = _Content(self._temporary / "data" / "main_data.hdf5")
            self._file = h5py.File(self._content, "w")
        except OSError as error:
            self._clear()
            raise self._cannot(error) from error
        self.episodes, self.steps = 0, 0

    def add(self, arrays: Mapping[str, Array], seed: int | None) -> None:
        """Add an episode.

        Args:
            arrays: path in the file → values.
            seed: which begins the episode in `reset`, where one does.
        """
        try:
            group = self._file.create_group(f"episode_{self.episodes}")
            group.attrs["id"] = self.episodes
            group.attrs["total_steps"] = len(arrays["rewards"])
            if seed is not None:
                group.attrs["seed"] = seed
            for name, values in arrays.items():
                group.create_dataset(name, data=values)
            self._content.check()
        except OSError as error:
            raise self._cannot(error) from error
        self.episodes += 1
        self.steps += len(arrays["rewards"])

    def finish(self) -> None:
        """Complete the files and move them to their place."""
        try:
            self._file.close()
            self._content.check()
            size = self._content.close()
            counts = {"total_episodes": self.episodes, "total_steps": self.steps, "dataset_size": round(size / 1e6, 1)}
            write_json(self._temporary / "data" / "metadata.json", {**self._metadata, **counts})
            if sys.platform == "win32":  # where a folder in use cannot be renamed
                self._lock.release()
            self._temporary.rename(self._folder)
        except OSError as error:
            raise self._cannot(error) from error
        self._lock.release()

    def abandon(self) -> None:
        """Remove what has been written, unless it is in its place."""
        try:
            self._file.close()
            self._content.close()
        finally:
            self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self._temporary / "data", ignore_errors=True)
        self._lock.release()

    def _cannot(self, error: OSError) -> CannotWrite:
        return CannotWrite(f"cannot write {shown(self._folder)}: {error.strerror or error}")


def _env_spec(env_id: str, env_options: Options) -> str:
    """Return how Gymnasium makes the environment, as JSON."""
    spec, kwargs = gymnasium.spec(registered_id(env_id)), dict(env_options)
    limit = kwargs.pop("max_episode_steps", spec.max_episode_steps)  # which `gymnasium.make` handles itself
    made = EnvSpec(spec.id, spec.entry_point, max_episode_steps=limit, kwargs={**spec.kwargs, **kwargs})
    try:
        return made.to_json()
    except (TypeError, ValueError):  # an entry point that is a class, or options that JSON cannot hold
        return EnvSpec(spec.id, max_episode_steps=limit).to_json()


def checksum(folder: Path) -> str:
    """Return the SHA-256 of a data set's numbers (GantryError where there are none)."""
    try:
        with (folder / "data" / "main_data.hdf5").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise GantryError(f"cannot read the data set {shown(folder)}: {getattr(error, 'strerror', error)}") from error


def read_dataset(folder: Path, env: VectorEnv, env_id: str) -> Experience:
    """Read a data set of an environment's episodes; executes nothing.

    Args:
        folder: the data set's, with `data` in it.
        env: where an agent is to learn from it.
        env_id: its id.

    Raises:
        GantryError: there is none, it is damaged, of another environment or in another format; or h5py is missing.
    """
    import_h5py()
    import h5py

    where, observed, acted = shown(folder), env.single_observation_space, env.single_action_space
    checksum(folder)  # says where there is none
    metadata = read_json(folder / "data" / "metadata.json")
    if metadata.get("data_format") != "hdf5":
        raise GantryError(f"{where} holds {shown(metadata.get('data_format'))}, not hdf5, which alone can be read")
    try:
        _check_environment(metadata, observed, acted, env_id, where)
        with h5py.File(folder / "data" / "main_data.hdf5", "r") as file:
            total = metadata["total_steps"]
            shapes = 2 * ObservationMap(observed).size + int(np.prod(acted.shape or ())) + 3
            require_memory(total * shapes, "data", f"a data set of {total:,} transitions")
            parts = [_episode(file[f"episode_{each}"], observed, acted) for each in range(metadata["total_episodes"])]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        if len(columns[2]) != total:
            raise ValueError(f"it holds {len(columns[2])} steps, not {total}")
    except GantryError:
        raise
    except Exception as error:  # h5py's many
        raise GantryError(f"the data set {where} is damaged ({shown(described(error))})") from error
    return Experience(*columns)


def _check_environment(metadata: Json, observed: Space, acted: Space, env_id: str, where: str) -> None:
    """Refuse a data set of another environment (GantryError)."""
    spec = metadata.get("env_spec")
    made_in = json.loads(spec)["id"] if spec else None
    if made_in is not None and made_in != registered_id(env_id):
        raise GantryError(f"the data set {where} is of {shown(made_in)}, not of {env_id}")
    for name, space in (("observation_space", observed), ("action_space", acted)):
        given = metadata.get(name)
        if given is not None and json.loads(given) != json.loads(json.dumps(space_description(space))):
            raise GantryError(f"the data set {where} has another {name} than {env_id}: {shown(given)}")
        if metadata.get("jpeg_encoding", True) and _is_image(space):
            raise GantryError(f"the data set {where} holds pictures as JPEG, which are not what the environment shows")


def _is_image(space: Space) -> bool:
    """Return whether Minari may store a space's values as JPEG."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return any(map(_is_image, parts))
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and min(space.shape[:2], default=0) >= 32


def _episode(group: "h5py.Group", observed: Space, acted: Space) -> tuple[Array, ...]:
    """Return the columns of an `Experience` of one episode (ValueError where it is damaged)."""
    rewards, terminated, truncated = (_array(group, name) for name in STEP_PARTS)
    steps = len(rewards)
    shapes = {part.shape for part in (rewards, terminated, truncated)}
    actions = _array(group, "actions")
    if steps == 0 or shapes != {(steps,)} or actions.shape != (steps, *(acted.shape or ())):
        raise ValueError(f"the parts of {group.name} differ in length")
    seen = ObservationMap(observed).vectors(_observations(group, "observations", observed, steps + 1))
    numbers = (seen, rewards) if not isinstance(acted, spaces.Box) else (seen, rewards, actions)
    if not all(np.isfinite(part).all() for part in numbers):
        raise ValueError(f"{group.name} holds NaN or infinite numbers")
    if isinstance(acted, spaces.Discrete) and not ((acted.start <= actions) & (actions < acted.start + acted.n)).all():
        raise ValueError(f"{group.name} holds actions that there are not")
    done = np.zeros(steps, np.bool_)
    done[-1] = True
    return seen[:-1], actions, rewards.astype(np.float32), seen[1:], terminated.astype(np.bool_), done


def _observations(group: "h5py.Group", name: str, space: Space, count: int) -> Observation:
    """Return observations (count, …), nested as their space is."""
    if isinstance(space, spaces.Dict):
        return {key: _observations(group, f"{name}/{key}", part, count) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_observations(group, f"{name}/_index_{i}", part, count) for i, part in enumerate(space.spaces))
    values = _array(group, name)
    if values.shape != (count, *(space.shape or ())):
        raise ValueError(f"{group.name}/{name} has shape {values.shape}")
    return values


def _array(group: "h5py.Group", name: str) -> Array:
    """Return numbers that are in this very file (ValueError for anything else)."""
    import h5py

    item = group[name]
    hard = isinstance(group.get(name, getlink=True), h5py.HardLink)
    if not hard or not isinstance(item, h5py.Dataset) or item.dtype.kind not in "biuf" or item.external:
        raise ValueError(f"{group.name}/{name} is not an array of numbers")
    values: Array = item[()]
    return values
