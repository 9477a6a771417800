"""What environments set for the whole process holds for their own code alone."""

import os
import signal

import gymnasium
import numpy as np
import pytest
import torch
from zoo import zoo_id

from gantry.agents import PPO, PPOConfig
from gantry.envs import make_vec
from gantry.errors import GantryError
from gantry.machine.process_state import ProcessState, others_code
from gantry.runs.environments import open_env

SMALL = PPOConfig(num_envs=2, rollout_steps=4, minibatch_size=8, epochs=1, hidden_sizes=(4,))


@pytest.fixture(autouse=True)
def _process():
    before = ProcessState.now()
    yield
    before.restore()
    others_code.theirs = None


@pytest.mark.filterwarnings("ignore")
def test_settings_that_an_environment_changes_hold_for_its_own_code_alone():
    before = ProcessState.now()
    env = open_env(zoo_id("SetsProcess"), 2)
    assert ProcessState.now() == before
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros(2, np.int64))  # it asserts that they hold
        assert ProcessState.now() == before
    open_env(zoo_id("Endless"), 2).reset(seed=0)
    assert ProcessState.now() == before


def test_signals_stay_with_whoever_had_them():
    before = signal.getsignal(signal.SIGINT)
    open_env(zoo_id("TakesSignals"), 2).reset(seed=0)
    assert signal.getsignal(signal.SIGINT) is before


def test_settings_that_a_module_changes_while_it_is_imported_do_not_stay(tmp_path, monkeypatch):
    program = "import gymnasium, numpy, os, torch; torch.set_default_dtype(torch.float64); os.chdir('/')\n"
    (tmp_path / "sets_globals.py").write_text(program + "gymnasium.register('SetsGlobals-v0', 'zoo:Walk')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    open_env("sets_globals:SetsGlobals-v0", 2)
    assert torch.get_default_dtype() is torch.float32
    assert os.getcwd() == os.path.realpath(tmp_path)
    del gymnasium.registry["SetsGlobals-v0"]


def test_agents_refuse_another_default_type_and_learning_without_gradients():
    env = make_vec("CartPole-v1", 2)
    with torch.no_grad(), pytest.raises(GantryError, match="learning needs gradients"):
        PPO(env, SMALL).learn(8)
    agent = PPO(env, SMALL).learn(8)
    torch.set_default_dtype(torch.float64)
    with pytest.raises(GantryError, match="PyTorch's default is another type"):
        PPO(env, SMALL)
    assert agent.act(np.zeros(4)) in (0, 1)
