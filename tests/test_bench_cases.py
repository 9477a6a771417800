"""What benchmarks that train from several seeds share."""

import pytest

from gantry.agents import PPOConfig
from gantry.benchmark.cases import trained
from gantry.runs.folder import Run
from gantry.runs.train import train

CONFIG = PPOConfig(num_envs=4, rollout_steps=16, epochs=1, minibatch_size=32, hidden_sizes=(8,))


def test_kept_run_that_was_stopped_is_continued_and_never_scored_as_it_is(tmp_path):
    def learned(folder):
        return trained("CartPole-v1", "ppo", CONFIG, 256, 100, {}, folder)

    def stop(row):
        if row["steps"] >= 128:
            raise KeyboardInterrupt

    whole = learned(tmp_path / "whole")
    run = Run(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        train(run, "CartPole-v1", "ppo", CONFIG, 256, 100, {}, progress=stop)
    assert run.exists()
    for _ in range(2):  # the second time it has ended already
        continued = learned(run.folder)
        assert continued.steps == whole.steps == 256
        for part in ("policy.safetensors", "policy.json"):
            assert (run.folder / part).read_bytes() == (tmp_path / "whole" / part).read_bytes()
