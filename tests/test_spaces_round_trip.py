"""What training accepts comes back equal from the policy's files, and what cannot be is refused before training."""

import json

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from gantry.errors import GantryError
from gantry.files import space_from_json, space_to_json
from gantry.spaces.maps import ObservationMap

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "float32", "float64"]


@st.composite
def boxes(draw):
    dtype = np.dtype(draw(st.sampled_from([*INTEGERS, *FLOATS, "bool"])))
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    if dtype.kind == "f":
        numbers = st.floats(width=8 * dtype.itemsize, allow_nan=False)
        largest = float(np.finfo(dtype).max)
        numbers = st.one_of(numbers, st.sampled_from([largest, -largest, np.inf, -np.inf]))
    else:
        limits = np.iinfo(dtype) if dtype.kind in "iu" else np.iinfo(np.uint8)
        numbers = st.integers(int(limits.min), int(limits.max) if dtype.kind in "iu" else 1)
    size = int(np.prod(shape))
    pairs = draw(st.lists(st.tuples(numbers, numbers), min_size=size, max_size=size))
    low = np.array([min(pair) for pair in pairs], dtype).reshape(shape)
    high = np.array([max(pair) for pair in pairs], dtype).reshape(shape)
    low, high = np.where(low == np.inf, 0, low).astype(dtype), np.where(high == -np.inf, 0, high).astype(dtype)
    return gymnasium.spaces.Box(low, high, dtype=dtype)


counts = st.lists(st.integers(1, 5), min_size=1, max_size=3)
simple = st.one_of(
    boxes(),
    st.sampled_from([gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.int64), gymnasium.spaces.Box(0, np.inf, (1, 2))]),
    st.builds(
        lambda n, start, dtype: gymnasium.spaces.Discrete(n, start=start, dtype=np.dtype(dtype).type),
        st.integers(1, 9), st.integers(-(2**20), 2**20), st.sampled_from(["int32", "int64"]),
    ),
    counts.flatmap(
        lambda nvec: st.builds(
            gymnasium.spaces.MultiDiscrete, st.just(nvec), st.sampled_from([np.int32, np.int64]),
            start=st.lists(st.integers(-9, 9), min_size=len(nvec), max_size=len(nvec)),
        )
    ),
    st.builds(gymnasium.spaces.MultiBinary, st.one_of(st.integers(1, 4), counts, counts.map(tuple))),
)  # fmt: skip
names = st.text(min_size=1, max_size=5)
spaces = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.lists(st.tuples(names, inner), min_size=1, max_size=3, unique_by=lambda pair: pair[0]).map(
            gymnasium.spaces.Dict
        ),
        st.lists(inner, min_size=1, max_size=3).map(gymnasium.spaces.Tuple),
    ),
    max_leaves=5,
)


def leaves(space):
    if isinstance(space, gymnasium.spaces.Dict):
        return [leaf for part in space.spaces.values() for leaf in leaves(part)]
    if isinstance(space, gymnasium.spaces.Tuple):
        return [leaf for part in space.spaces for leaf in leaves(part)]
    return [space]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(space=spaces)
def test_spaces_come_back_equal_from_json(space):
    again = space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))
    assert again == space
    for found, wanted in zip(leaves(again), leaves(space), strict=True):
        assert found.dtype == wanted.dtype
        if isinstance(wanted, gymnasium.spaces.Box):  # Gymnasium's own comparison is approximate
            assert np.array_equal(found.low, wanted.low)
            assert np.array_equal(found.high, wanted.high)
            for manner in ("below", "above"):
                assert found.is_bounded(manner) == wanted.is_bounded(manner)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(space=spaces, seed=st.integers(0, 99))
def test_observations_become_the_same_vectors_in_a_batch_on_their_own_and_as_objects(space, seed):
    mapping, alone = ObservationMap(space), []
    space.seed(seed)
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            observations = [space.sample() for _ in range(3)]
        except (OverflowError, ValueError):  # Gymnasium cannot sample between such bounds
            reject()
        batch = gymnasium.vector.utils.create_empty_array(space, 3)
        batch = gymnasium.vector.utils.concatenate(space, observations, batch)
        objects = np.empty(3, object)
        objects[:] = observations
        together = mapping.vectors(batch)
        np.testing.assert_array_equal(mapping.vectors(objects), together)
        np.testing.assert_array_equal(mapping.vectors(objects, np.array([2, 0])), together[[2, 0]])
        if np.isfinite(together).all():
            alone = [mapping.given(observation) for observation in observations]
            np.testing.assert_array_equal(np.concatenate([vectors for vectors, _ in alone]), together)
            assert all(single for _, single in alone)
            np.testing.assert_array_equal(mapping.given(batch)[0], together)
    assert together.shape == (3, mapping.size)
    categorical = [np.ravel(leaf.start) for leaf in leaves(space) if hasattr(leaf, "start")]
    if len(categorical) == len(leaves(space)):
        assert (together.sum(1) == sum(map(len, categorical))).all()


def test_dictionaries_keep_an_order_that_is_not_alphabetical():
    space = gymnasium.spaces.Dict([("z", gymnasium.spaces.Discrete(2)), ("a", gymnasium.spaces.Box(0, 1, (3,)))])
    again = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert ObservationMap(again).slices == ObservationMap(space).slices == {"z": slice(0, 2), "a": slice(2, 5)}


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Text(3),
        gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(2)),
        gymnasium.spaces.Dict({1: gymnasium.spaces.Discrete(2)}),
        gymnasium.spaces.Tuple([]),
        gymnasium.spaces.Box(0, 1, (0,)),
        gymnasium.spaces.Box(0, 1, (1,), np.longdouble),
        gymnasium.spaces.Discrete(2**17),
        gymnasium.spaces.Tuple([gymnasium.spaces.Dict(a=gymnasium.spaces.Text(3))]),
    ],
    ids=str,
)
def test_other_observations_are_refused_in_one_line(space):
    with pytest.raises(GantryError, match="observations must be") as caught:
        ObservationMap(space)
    assert "\n" not in str(caught.value)
