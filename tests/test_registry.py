"""The registry of tasks, the public face of `gantry.envs`, and where models are looked for."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import gantry
from gantry.envs import Task, make, make_sb3, make_vec, register_task
from gantry.envs.capabilities import Disturbable, Drawable, GoalConditioned, PlanDrawable, Plannable, Randomizable
from gantry.envs.components import Component, box
from gantry.envs.registry import canonical_id, find_task, is_task, registered_tasks
from gantry.envs.simulator import Simulator, make_simulator, make_task
from gantry.errors import GantryError

PENDULUM = """
<mujoco><worldbody><body pos="0 0 1"><joint name="hinge" type="hinge" axis="0 1 0"/>
<geom type="capsule" fromto="0 0 0 0 0 0.5" size="0.02"/></body></worldbody>
<actuator><motor joint="hinge" gear="2" ctrllimited="true" ctrlrange="-1 1"/></actuator></mujoco>
"""
MODULE = """
import numpy as np
from gantry.envs import Task, register_task
from gantry.envs.components import Component, box

class Pendulum(Task):
    model_file = "pendulum.xml"
    observation_space = box([Component("angle", "rad", -50, 50), Component("speed", "rad/s", -500, 500)])
    action_space = box([Component("torque", "2 N m", -1, 1)])

    def __init__(self, spread=0.1):
        self.spread = spread

    def reset(self, state, env_ids, random):
        state.qpos[env_ids] = random.uniform(-self.spread, self.spread, 1)

    def control(self, actions):
        return actions

    def features(self, state):
        return np.concatenate([state.qpos, state.qvel], axis=1).astype(np.float32)

    def reward(self, features, control, next_features):
        upright = (next_features[..., 0] < 0.5) * 1.0
        return upright, {"upright": upright}

register_task("mine/Pendulum-v0", f"{__name__}:Pendulum", max_episode_steps=40, summary="hold it",
              options={"spread": 0.2})
"""


@pytest.fixture
def registrations():
    """Forget afterwards what a test has registered."""
    before = set(registered_tasks())
    yield
    from gantry.envs import registry

    for env_id in set(registered_tasks()) - before:
        del registry._specs[env_id]
        del gymnasium.registry[env_id]


@pytest.fixture
def own_module(tmp_path, monkeypatch, registrations):
    """A folder with a task of a user's, which is the current one and not on the path."""
    (tmp_path / "my_pendulum.py").write_text(MODULE)
    (tmp_path / "pendulum.xml").write_text(PENDULUM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    sys.modules.pop("my_pendulum", None)


def test_register_task_is_one_function_under_two_names():
    assert gantry.register_task is register_task


def test_module_prefix_imports_a_task_from_the_current_folder(own_module):
    assert is_task("my_pendulum:mine/Pendulum-v0")
    spec = find_task("my_pendulum:mine/Pendulum-v0")
    assert (spec.env_id, spec.max_episode_steps, spec.summary) == ("mine/Pendulum-v0", 40, "hold it")
    assert canonical_id("my_pendulum:mine/Pendulum-v0") == "my_pendulum:mine/Pendulum-v0"
    assert canonical_id("mine/Pendulum-v0") == "mine/Pendulum-v0"
    batch = make_vec("my_pendulum:mine/Pendulum-v0", 3)
    assert isinstance(batch.unwrapped, Simulator)
    assert batch.unwrapped.max_episode_steps == 40
    observations, _ = batch.reset(seed=5)
    single = make("mine/Pendulum-v0")
    assert np.array_equal(single.reset(seed=6)[0], observations[1])
    assert 0.0 < np.abs(observations[:, 0]).max() <= 0.2
    assert np.abs(make_vec("mine/Pendulum-v0", 3, spread=0.0).reset(seed=5)[0]).max() == 0.0
    gymnasium.make("mine/Pendulum-v0").reset()
    assert make_sb3("mine/Pendulum-v0", 2).num_envs == 2


def test_model_is_found_beside_the_module_then_in_assets(own_module):
    assert make_simulator("my_pendulum:mine/Pendulum-v0").model.nq == 1
    (own_module / "pendulum.xml").unlink()
    with pytest.raises(GantryError, match=r"Pendulum needs the model 'pendulum.xml', which is neither in .* nor in"):
        make_simulator("mine/Pendulum-v0")
    (own_module / "pendulum.xml").write_text("<mujoco><nonsense/></mujoco>")
    with pytest.raises(GantryError, match=r"pendulum.xml: .*nonsense") as caught:
        make_simulator("mine/Pendulum-v0")
    assert "\n" not in str(caught.value)
    assert make_task("gantry/CartPoleSwingUp-v0").load_model().nq == 2


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "go to the folder that holds it, or install its package"),
        (
            "import nowhere_to_be_found",
            "cannot import 'broken', .*No module named 'nowhere_to_be_found'",
        ),
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("", r"the module 'broken' registers no environment 'mine/Broken-v0'; its import must register it"),
    ],
)
def test_module_that_cannot_be_imported_is_refused_in_one_line(tmp_path, monkeypatch, module, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    if module is not None:
        (tmp_path / "broken.py").write_text(module)
    with pytest.raises(GantryError, match=message) as caught:
        canonical_id("broken:mine/Broken-v0")
    assert "\n" not in str(caught.value)
    sys.modules.pop("broken", None)


def test_ids_without_their_module_and_files_as_modules_are_told_what_to_write():
    with pytest.raises(GantryError, match="MODULE:nobody/Humanoids-v5"):
        canonical_id("nobody/Humanoids-v5")
    with pytest.raises(GantryError, match="is a file: name its module, task:mine/A-v0"):
        canonical_id("./folder/task.py:mine/A-v0")


def test_gantrys_module_prefix_is_dropped():
    assert canonical_id("gantry:gantry/Reach-v0") == canonical_id("Reach-v0") == "gantry/Reach-v0"


@pytest.mark.parametrize(
    ("env_id", "settings", "message"),
    [
        ("no id at all!", {}, "not a Gymnasium id"),
        ("mine/A-v0", {"task": "my_module"}, "must be 'module:Class'"),
        ("mine/A-v0", {"task": ":Class"}, "must be 'module:Class'"),
        ("mine/A-v0", {"max_episode_steps": 0}, "at least 1"),
        ("mine/A-v0", {"max_episode_steps": 2.5}, "at least 1"),
        ("CartPole-v1", {}, "already registered by another package"),
        ("gantry/Reach-v0", {}, "already registered for gantry.envs.tasks.reach:Reach"),
    ],
)
def test_registration_that_cannot_be_is_refused_in_one_line(registrations, env_id, settings, message):
    before = dict(gymnasium.registry)
    with pytest.raises(GantryError, match=message) as caught:
        register_task(env_id, **{"task": "a:B", "max_episode_steps": 5, **settings})
    assert "\n" not in str(caught.value)
    assert gymnasium.registry == before


def test_registering_a_class_again_replaces_its_entry(registrations):
    kind = type(make_task("gantry/CartPoleSwingUp-v0"))
    register_task("mine/A-v0", kind, max_episode_steps=5)
    register_task("mine/A-v0", kind, max_episode_steps=7)
    assert make_vec("mine/A-v0").unwrapped.max_episode_steps == 7
    with pytest.raises(GantryError, match="already registered for"):
        register_task("mine/A-v0", "elsewhere:CartPole", max_episode_steps=7)


def test_class_that_is_not_there_is_named(registrations):
    register_task("mine/A-v0", "gantry.envs.tasks.reach:Reich", max_episode_steps=5)
    with pytest.raises(GantryError, match=r"gantry\.envs\.tasks\.reach' has no class 'Reich'"):
        make_task("mine/A-v0")


def test_foreign_environments_are_made_too():
    assert not is_task("CartPole-v1")
    env = make_vec("Acrobot-v1", 3)
    assert isinstance(env, SyncVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert make_vec("CartPole-v1", 3).num_envs == 3  # which has a vector environment of its own
    assert make("CartPole-v1").spec.id == "CartPole-v1"
    for maker in (make, make_vec):
        with pytest.raises(GantryError, match="did you mean CartPole-v1") as caught:
            maker("CartPol-v1")
        assert "\n" not in str(caught.value)
        with pytest.raises(GantryError, match=r"cannot make the environment 'CartPole-v1': .*gravitas"):
            maker("CartPole-v1", gravitas=2)


def test_public_face_is_lazy_and_lists_what_it_has():
    program = (
        "import sys, gantry, gantry.envs\n"
        "from gantry.envs import register_task, make, make_vec\n"
        "assert {'make', 'make_vec', 'make_sb3', 'register_task', 'Task'} <= set(dir(gantry.envs))\n"
        "assert not {'mujoco', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        gantry.envs.nothing_of_the_kind  # noqa: B018


def test_box_takes_bounds_and_counts_of_its_components():
    space = box([Component("x", "m", -1, 2), Component("rest", low=0, high=3, count=2)])
    assert space == gymnasium.spaces.Box(np.array([-1, 0, 0], np.float32), np.array([2, 3, 3], np.float32))


def test_tasks_declare_their_capabilities():
    declared = {
        "gantry/CartPoleSwingUp-v0": {Randomizable, Disturbable, PlanDrawable},
        "gantry/ReachPlanar-v0": {Disturbable, PlanDrawable},
        "gantry/ReachGoal-v0": {Disturbable, PlanDrawable, GoalConditioned},
        "gantry/VacuumRooms-v0": {Disturbable, Drawable, Plannable, PlanDrawable},
        "gantry/Vacuum-v0": {Disturbable, Drawable},
    }
    every = (Randomizable, Disturbable, Drawable, GoalConditioned, Plannable, PlanDrawable)
    for env_id, capabilities in declared.items():
        task = make_task(env_id)
        assert isinstance(task, Task)
        assert {each for each in every if isinstance(task, each)} == capabilities


def test_environment_of_another_suite_is_not_called_unknown():
    with pytest.raises(GantryError, match="CartPole-v1 is not one of Gantry's tasks"):
        make_task("CartPole-v1")
    with pytest.raises(GantryError, match="unknown environment 'CartPole-v999'"):
        make_task("CartPole-v999")
