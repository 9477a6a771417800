"""A policy's two files and the trainer state, damaged in every way: an equal result or one clear line, nothing else."""

import json
import struct

import numpy as np
import pytest
import torch
from agent_doubles import Spot
from agent_states import parameters, trainer_state

from gantry.agents import load_agent, save_agent
from gantry.agents.ppo import PPO, PPOConfig
from gantry.errors import GantryError
from gantry.runs.folder import Run, RunConfig

TINY = PPOConfig(rollout_steps=4, epochs=1, minibatch_size=16, hidden_sizes=(2,))


def learned(seed=0):
    return PPO(Spot(4), TINY, seed=seed).learn(64)


@pytest.fixture(scope="module")
def agent():
    return learned()


@pytest.fixture(scope="module")
def saved(agent, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    Run(folder).save_checkpoint(agent, 1.0)
    return folder


def mutations(content, stride):
    """The content with a bit flipped at every `stride`-th byte, cut short, and with bytes in excess."""
    for offset in range(0, len(content), stride):
        changed = bytearray(content)
        changed[offset] ^= 1 << offset % 8
        yield bytes(changed)
    yield from (content[:length] for length in range(0, len(content), 8 * stride + 1))
    yield content + b"\0"


def refused_or_equal(load, wanted):
    try:
        found = load()
    except GantryError as error:
        said = str(error)
    else:
        assert torch.equal(found, wanted) if isinstance(found, torch.Tensor) else found == wanted
        return False
    return "\n" not in said


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_damage_at_any_offset_of_a_policy_is_found(agent, saved, name):
    path, refused = saved / name, 0
    content = path.read_bytes()
    try:
        for changed in mutations(content, 5):
            path.write_bytes(changed)
            refused += refused_or_equal(lambda: parameters(load_agent(saved)), parameters(agent))
    finally:
        path.write_bytes(content)
    assert refused > len(content) // 8
    assert torch.equal(parameters(load_agent(saved)), parameters(agent))


def test_any_bit_flip_in_config_json_is_found(tmp_path):
    run = Run(tmp_path)
    run.write_config(written := RunConfig("CartPole-v1", {"a": 0.1}, "ppo", 3, 100, {"gamma": 0.99, "sizes": [4]}, {}))
    path, refused = tmp_path / "config.json", 0
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 3):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        refused += refused_or_equal(run.read_config, written)
    assert refused > len(content)


def test_edited_config_json_is_read_without_its_checksum(tmp_path):
    run = Run(tmp_path)
    run.write_config(RunConfig("CartPole-v1", {}, "ppo", 3, 100, {}, {}))
    path = tmp_path / "config.json"
    edited = path.read_text().replace('"total_steps": 100', '"total_steps": 200')
    path.write_text(edited)
    with pytest.raises(GantryError, match=r"damaged or was edited .* delete its line 'checksum'"):
        run.read_config()
    path.write_text("\n".join(line for line in edited.splitlines() if "checksum" not in line))
    assert run.read_config().total_steps == 200


def test_damage_at_any_offset_of_a_trainer_state_is_found(agent, saved):
    path, refused = saved / "trainer" / "state.safetensors", 0
    content = path.read_bytes()
    whole = torch.cat([tensor.double().reshape(-1).nan_to_num() for tensor in trainer_state(agent).values()])

    def load():
        other = PPO(Spot(4), TINY, seed=5)
        Run(saved).load_checkpoint(other)
        return torch.cat([tensor.double().reshape(-1).nan_to_num() for tensor in trainer_state(other).values()])

    try:
        for changed in mutations(content, 151):
            path.write_bytes(changed)
            refused += refused_or_equal(load, whole)
    finally:
        path.write_bytes(content)
    assert refused > len(content) // 151


def with_header(metadata, tensors=b"{}"):
    text = b'{"__metadata__":{"metadata":' + json.dumps(metadata).encode() + b"}," + tensors[1:-1] + b"}"
    text = text.replace(b",}", b"}")
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        with_header("[1, 2]"), with_header("3"), with_header("[" * 100_000), with_header('{"checksum": 1e999}'),
        with_header('{"agent": ["ppo"], "steps": 1}'), with_header("null"), with_header("{"),
        with_header('{"a":' * 5_000 + "1" + "}" * 5_000), with_header("9" * 6_000), struct.pack("<Q", 2**62),
        struct.pack("<Q", 10**9) + b"{}", b"", b"\0" * 64,
    ],
)  # fmt: skip
def test_headers_that_hold_anything_are_refused(saved, content):
    for path, load in (
        (saved / "policy.safetensors", lambda: load_agent(saved)),
        (saved / "trainer" / "state.safetensors", lambda: Run(saved).load_checkpoint(learned())),
    ):
        whole = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(GantryError) as caught:
            load()
        path.write_bytes(whole)
        assert "\n" not in str(caught.value)


def test_files_of_two_policies_are_not_taken_for_one(saved, tmp_path):
    save_agent(PPO(Spot(4), PPOConfig(hidden_sizes=(2,), gamma=0.5)), tmp_path)
    (tmp_path / "policy.json").write_bytes((saved / "policy.json").read_bytes())
    with pytest.raises(GantryError, match=r"not of the same save as policy\.json"):
        load_agent(tmp_path)


def test_a_diverged_policy_never_replaces_a_good_one(tmp_path):
    ruined = learned()
    ruined.critic.vector.detach()[0] = np.nan
    with pytest.raises(GantryError, match=r"critic.* and is not saved; none was saved"):
        save_agent(ruined, tmp_path)
    assert list(tmp_path.iterdir()) == []
    good = learned()
    save_agent(good, tmp_path)
    with pytest.raises(GantryError, match="the one saved before stays"):
        save_agent(ruined, tmp_path)
    assert torch.equal(parameters(load_agent(tmp_path)), parameters(good))
