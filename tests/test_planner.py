import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from agent_doubles import Spot
from PIL import Image

from gantry.agents import load_agent, save_agent
from gantry.agents.models.dataset import Transitions
from gantry.agents.models.ensemble import EnsembleConfig
from gantry.agents.models.model_rollouts import ModelRollouts, PlanningObjective, evaluate_rollouts
from gantry.agents.models.plan_search import PlanSearch, SearchConfig, finite_costs
from gantry.agents.models.reward_model import LearnedReward, TaskReward
from gantry.agents.models.terminal_value import TerminalValue
from gantry.agents.mpc import MPC, PlanningRecord
from gantry.agents.parts.checkpoint import restore, state_of
from gantry.agents.pets import PETS, PlannerConfig
from gantry.envs.simulator import make_simulator
from gantry.errors import GantryError
from gantry.film.overlay import PlanReturns
from gantry.film.plan_overlay import PlanPrediction, plan_markers, plan_returns
from gantry.film.record import record
from gantry.machine.threads import torch_threads
from gantry.plots.model_calibration import draw_model_calibration
from gantry.runs.environments import open_env
from gantry.runs.evaluate import evaluate
from gantry.runs.folder import Run
from gantry.runs.recipes import recipe_for
from gantry.runs.train import train
from gantry.spaces.maps import ActionMap, ObservationMap

SWING_UP = "gantry/CartPoleSwingUp-v0"
SEARCH = SearchConfig(horizon=6, population=16, elites=4, iterations=2)
MODEL = EnsembleConfig(ensemble_size=2, hidden_sizes=(16,), gradient_steps=50)
QUICK = PlannerConfig(search=SEARCH, model=MODEL, initial_random_steps=20, fit_every=10)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with torch_threads(1):
        yield


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def config(search=None, model=None, **changes):
    """Return the quick settings with changes to the search, to the model and to others."""
    parts = {"search": replace(SEARCH, **(search or {})), "model": replace(MODEL, **(model or {}))}
    return replace(QUICK, **parts, **changes)


def plan_search(action_size=1, discrete=False, **changes):
    """Return a search for bounded actions, or for Discrete ones."""
    bounded = None if discrete else torch.ones(action_size, dtype=torch.bool)
    return PlanSearch(replace(SEARCH, **changes), action_size, bounded)


class Bowl:
    """Model whose returns are minus the squared distance of an action sequence from a target."""

    fitted, members = True, 1

    def __init__(self, target):
        self.target = target

    def evaluate_action_sequences(self, features, env_ids, actions, generator):
        returns = -(actions - self.target).square().sum((1, 2))
        trajectories = torch.zeros(actions.shape[1] + 1, len(actions), 1, features.shape[1])
        return ModelRollouts(trajectories, returns, torch.zeros(actions.shape[1], len(actions)))

    def features(self, observations):
        return torch.tensor(observations)


# --- returns of model rollouts


def test_rollout_return_is_discounted_sum_until_termination():
    rewards = torch.tensor([1.0, 2.0, 4.0])[:, None, None].expand(3, 2, 1)
    terminated = torch.zeros(3, 2, 1, dtype=torch.bool)
    terminated[1, 1] = True
    rollouts = evaluate_rollouts(
        torch.zeros(4, 2, 1, 3), rewards, terminated, torch.zeros(2, dtype=torch.bool), PlanningObjective(0.5)
    )
    torch.testing.assert_close(rollouts.returns, torch.tensor([1 + 1 + 1.0, 1 + 1.0]))


def test_terminal_value_is_added_unless_terminated():
    terminated = torch.zeros(2, 2, 1, dtype=torch.bool)
    terminated[0, 1] = True
    objective = PlanningObjective(0.5, terminal_value=lambda features: features[..., 0] * 100)
    path = torch.full((3, 2, 1, 1), 2.0)
    rollouts = evaluate_rollouts(path, torch.ones(2, 2, 1), terminated, torch.zeros(2, dtype=torch.bool), objective)
    torch.testing.assert_close(rollouts.returns, torch.tensor([1.5 + 0.25 * 200, 1.0]))


def test_uncertainty_penalty_is_particle_std():
    path = torch.zeros(3, 1, 2, 1)
    path[1:, 0, 1] = torch.tensor([[4.0], [8.0]])  # standard deviations over two particles: 2 and 4
    rollouts = evaluate_rollouts(
        path,
        torch.ones(2, 1, 2),
        None,
        torch.zeros(1, dtype=torch.bool),
        PlanningObjective(1.0, 0.1),
        torch.tensor([2.0]),
    )
    torch.testing.assert_close(rollouts.returns, torch.tensor([2.0 - 0.1 * (1 + 2)]))


def test_diverged_rollouts_rank_behind_all_others():
    diverged = torch.tensor([False, True])
    rollouts = evaluate_rollouts(torch.zeros(2, 2, 1, 1), torch.ones(1, 2, 1), None, diverged, PlanningObjective())
    assert rollouts.returns.isnan().tolist() == [False, True]
    values = finite_costs(torch.tensor([1.0, math.nan, 3.0, math.inf]))
    assert values.argmin() == 0
    assert bool((values[[1, 3]] > 3.0).all())
    assert finite_costs(torch.tensor([math.nan, math.inf])) is None


# --- simulator as model


@pytest.mark.parametrize("env_id", [SWING_UP, "gantry/Reach-v0", "gantry/VacuumRooms-v0", "gantry/Vacuum-v0"])
def test_simulator_rollout_matches_environment_steps(env_id):
    env = make_simulator(env_id, 3)
    env.reset(seed=4)
    env.action_space.seed(1)
    for _ in range(2):
        env.step(env.action_space.sample())
    repeat = 2 if env_id == SWING_UP else 1
    actions = np.stack([env.action_space.sample() for _ in range(2)], 1)
    before = env.get_state()
    path, rewards, terminated = env.planning_model().rollout(np.array([2, 0, 1, 2]), actions[[2, 0, 1, 2]], repeat)
    after = env.get_state()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    np.testing.assert_array_equal(path[0], env.features[[2, 0, 1, 2]])
    running = np.ones(3, bool)
    for step in range(2):
        summed = np.zeros(3)
        for _ in range(repeat):
            _, reward, terminated, _, _ = env.step(actions[:, step])
            summed += reward * running
            running &= ~terminated
        np.testing.assert_allclose(rewards[step], summed[[2, 0, 1, 2]], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(terminated[step], ~running[[2, 0, 1, 2]])
        if running.all():
            np.testing.assert_array_equal(path[step + 1], env.features[[2, 0, 1, 2]])


@pytest.mark.parametrize("env_id", [SWING_UP, "gantry/Reach-v0", "gantry/ReachPlanar-v0", "gantry/VacuumRooms-v0"])
def test_task_reward_matches_environment_reward(env_id):
    env = make_simulator(env_id, 4)
    observations, _ = env.reset(seed=0)
    env.action_space.seed(2)
    actions = env.action_space.sample()
    model = env.planning_model()
    features = torch.from_numpy(model.features(observations))
    observations, rewards, terminations, _, infos = env.step(actions)
    final = (
        np.where(infos["_final_obs"][:, None], infos["final_obs"], observations) if terminations.any() else observations
    )
    next_features = torch.from_numpy(model.features(final))
    planned = actions if actions.dtype.kind == "f" else np.eye(env.single_action_space.n, dtype=np.float32)[actions]
    to_environment = (lambda a: a) if actions.dtype.kind == "f" else (lambda a: a.argmax(-1))
    reward_model = TaskReward(model, to_environment, repeat=3)
    reward = reward_model.reward(features, torch.from_numpy(planned), next_features)
    np.testing.assert_allclose(reward.numpy(), 3 * rewards, rtol=1e-5, atol=1e-5)
    terminated = reward_model.terminated(next_features)
    assert terminated is None or np.array_equal(terminated.numpy(), terminations)


def test_partial_observations_give_no_features():
    model = make_simulator(SWING_UP, 1, observe_velocity=False).planning_model()
    assert model.features(np.zeros((1, 3), np.float32)) is None


@pytest.mark.parametrize("env_id", ["gantry/Reach-v0", "gantry/ReachPlanar-v0", SWING_UP])
def test_drawn_point_matches_mujoco_kinematics(env_id):
    env = make_simulator(env_id, 2)
    env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(5):
        env.step(env.action_space.sample())
    import mujoco

    for env_index in range(2):
        data, model = env.batch.get_data(env_index), env.batch.get_model(env_index)
        mujoco.mj_forward(model, data)
        point = env.planning_model().point(env.features[env_index])
        if env_id == SWING_UP:
            pole = data.body("pole")
            tip = pole.xpos + pole.xmat.reshape(3, 3) @ (0.0, 0.0, 1.0)  # the pole's axis ends 1 m from the hinge
            np.testing.assert_allclose(point, tip, atol=1e-5)
        else:
            tip = data.site("fingertip").xpos
            np.testing.assert_allclose(point[:2], tip[:2], atol=1e-5)


# --- plan search


@pytest.mark.parametrize("optimizer", ["icem", "cem", "mppi", "random-shooting"])
def test_optimizers_find_quadratic_optimum(optimizer):
    target = torch.tensor([[0.5, -0.2], [0.1, 0.3], [-0.4, 0.0]])
    search = plan_search(
        2, optimizer=optimizer, horizon=3, population=400, iterations=5, elites=20, colored_noise_exponent=0.0
    )
    warm_start = search.warm_start(2)
    for _ in range(3):
        result = search.plan(warm_start, torch.tensor([0, 1]), torch.zeros(2, 1), Bowl(target), generator())
    worst = 0.35 if optimizer == "random-shooting" else 0.2
    assert float((result.actions - target[0]).abs().max()) < worst
    assert not bool(result.failed.any())


def test_gradient_optimizer_refines_best_sample():
    target = torch.full((4, 1), 0.3)
    search = plan_search(optimizer="gradient", horizon=4, population=8, iterations=10)
    result = search.plan(search.warm_start(1), torch.tensor([0]), torch.zeros(1, 1), Bowl(target), generator())
    torch.testing.assert_close(result.plan, target, atol=1e-3, rtol=0)


def test_discrete_plans_are_one_hot():
    target = torch.nn.functional.one_hot(torch.tensor([2, 0, 1]), 3).float()
    search = plan_search(3, discrete=True, horizon=3, population=60, iterations=4)
    result = search.plan(search.warm_start(1), torch.tensor([0]), torch.zeros(1, 1), Bowl(target), generator())
    assert torch.equal(result.plan, target)
    assert float(result.predicted_returns) == 0.0


def test_warm_start_is_shifted_plan():
    target = torch.tensor([[0.5], [0.1], [-0.4]])
    search = plan_search(horizon=3, population=400, iterations=8, momentum=0.0)
    warm_start = search.warm_start(1)
    search.plan(warm_start, torch.tensor([0]), torch.zeros(1, 1), Bowl(target), generator())
    torch.testing.assert_close(warm_start.mean[0], target[[1, 2, 2]], atol=0.1, rtol=0)
    assert bool(warm_start.available[0])
    warm_start.reset(torch.tensor([True]))
    assert not bool(warm_start.available[0])


@pytest.mark.parametrize("executed_plan", ["best", "mean"])
def test_executed_plan_is_best_sample_or_mean(executed_plan):
    target = torch.tensor([[0.5], [0.1], [-0.4]])
    search = plan_search(horizon=3, executed_plan=executed_plan)
    warm_start = search.warm_start(1)
    result = search.plan(warm_start, torch.tensor([0]), torch.zeros(1, 1), Bowl(target), generator())
    is_mean = torch.equal(result.plan[1:], warm_start.mean[0, :-1])  # the warm start is always the mean
    assert is_mean == (executed_plan == "mean")
    assert torch.equal(result.actions[0], result.plan[0])


def test_mpc_holds_each_action_and_then_replans():
    env = Spot(2)
    target = torch.tensor([[0.5], [0.1], [-0.4]])
    mpc = MPC(
        ObservationMap(env.single_observation_space),
        ActionMap(env.single_action_space).to_environment,
        plan_search(horizon=3, population=400, iterations=8),
        build_model=lambda planning_model: Bowl(target),
        action_repeat=2,
        generator=generator(),
    )
    observations, _ = env.reset(seed=0)
    mpc.begin(env)
    first, held, second = (mpc.act(observations) for _ in range(3))
    assert np.array_equal(first, held)
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(first, np.full((2, 1), 0.5), atol=0.1)
    single = mpc.act(observations[0])
    assert single.shape == first.shape[1:]


def test_previous_plan_is_reused_when_no_rollout_is_finite():
    env = open_env(SWING_UP, 1)
    agent = PETS(env, QUICK, seed=0)
    agent.learn(60)
    observation, _ = env.reset(seed=1)
    agent.begin(env)
    agent.act(observation)
    planned = agent.mpc.warm_start.mean[0].clone()
    state = state_of(agent.dynamics)
    restore(agent.dynamics, {**state, "0.weight": torch.full_like(state["0.weight"], math.nan)})
    with pytest.warns(RuntimeWarning, match="reusing the previous plan"):
        first = agent.act(observation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = agent.act(observation)
    np.testing.assert_allclose(first[0], planned[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(second[0], planned[1].numpy(), atol=1e-6)


# --- learned reward and terminal value


def transitions(number, ends=False):
    random = generator(1)
    features = torch.rand(number, 1, generator=random) * 2 - 1
    actions = torch.rand(number, 1, generator=random) * 2 - 1
    next_features = features + 0.5 * actions
    reward = -next_features[:, 0].square() + 0.3 * actions[:, 0]
    terminated = next_features[:, 0] > 0.7 if ends else torch.zeros(number, dtype=torch.bool)
    return Transitions(features, actions, next_features, reward, terminated, torch.arange(number) % 10 == 0)


def test_learned_reward_and_termination_are_accurate():
    reward_model = LearnedReward(
        1, 1, EnsembleConfig(ensemble_size=1, hidden_sizes=(32, 32), gradient_steps=500), generator()
    )
    reward_model.fit(transitions(600), generator())
    assert reward_model.terminated(torch.zeros(1, 1)) is None
    data = transitions(600, ends=True)
    reward_model.fit(data, generator())
    error = reward_model.reward(data.features, data.actions, data.next_features) - data.rewards
    assert float(error.abs().mean()) < 0.05
    wrong = reward_model.terminated(data.next_features) != data.terminated
    assert float(wrong.float().mean()) < 0.03


def test_terminal_value_of_three_state_chain():
    """Fit the chain 0 → 1 (reward 1) → 2 (reward 2), 2 → 2 (reward 1); with γ = 0.5, V = 2.5, 3, 2."""
    features = torch.tensor([0.0, 1.0, 2.0]).repeat(60)[:, None]
    next_features = torch.tensor([1.0, 2.0, 2.0]).repeat(60)[:, None]
    rewards = torch.tensor([1.0, 2.0, 1.0]).repeat(60)
    none = torch.zeros(180, dtype=torch.bool)
    value = TerminalValue(1, EnsembleConfig(ensemble_size=1, hidden_sizes=(16,), gradient_steps=200), generator())
    data = Transitions(features, torch.zeros(180, 1), next_features, rewards, none, none)
    for _ in range(4):
        value.fit(data, 0.5, generator())
    torch.testing.assert_close(
        value(torch.tensor([[0.0], [1.0], [2.0]])), torch.tensor([2.5, 3.0, 2.0]), atol=0.2, rtol=0
    )


# --- the agent


@pytest.mark.slow
def test_pets_learns_spot_with_learned_reward():
    settings = config(
        search={"horizon": 1, "population": 64, "elites": 8}, model={"gradient_steps": 200}, fit_every=100
    )
    agent = PETS(Spot(4), settings, seed=0)
    agent.learn(600)
    env = Spot(16)
    observations, _ = env.reset(seed=5)
    agent.begin(env)
    error = np.abs(agent.act(observations)[:, 0] - observations[:, 0])
    assert agent.config.reward == "learned"
    assert float(error.mean()) < 0.15


@pytest.mark.slow
def test_pets_learns_swing_up_in_one_minute_of_robot_time():
    recipe = recipe_for(SWING_UP, "planner")
    agent = PETS(open_env(SWING_UP, 1), recipe.config, seed=0).learn(recipe.total_steps)
    # Single episodes may need a second attempt, so that the mean of few varies; random actions score some 40.
    assert evaluate(agent.act, SWING_UP, 3, begin=agent.begin).score > 700


@pytest.mark.parametrize("kind", [pytest.param("continuous", marks=pytest.mark.slow), "discrete", "simulator"])
def test_pets_is_deterministic_and_resumes_exactly(kind):
    settings = config(action_repeat=2, dynamics="simulator" if kind == "simulator" else "learned")
    actions = {"actions": "discrete" if kind == "discrete" else "continuous"}

    def fresh():
        return PETS(open_env(SWING_UP, 1, actions), settings, seed=1)

    def metrics_of(agent, total, stop=None):
        found = []

        def note(_, metrics):
            found.append({k: v for k, v in metrics.items() if k not in ("planning_ms", "real_time_factor")})
            return stop is None or len(found) < stop

        agent.learn(total, note)
        return found

    first, second = fresh(), fresh()
    uninterrupted = metrics_of(first, 50)
    np.testing.assert_equal(metrics_of(second, 50), uninterrupted)
    third = fresh()
    started = metrics_of(third, 50, stop=2)
    resumed = fresh()
    resumed.checkpoint.load_state(third.checkpoint.state())
    np.testing.assert_equal(started + metrics_of(resumed, 50), uninterrupted)
    end, other = first.checkpoint.state(), resumed.checkpoint.state()
    assert all(torch.equal(end[name], other[name]) for name in end)


def test_step_budget_is_exact_and_actions_repeat():
    sent = []

    class Watched(Spot):
        def step(self, actions):
            sent.append(actions.copy())
            return super().step(actions)

    agent = PETS(Watched(1, length=12), config(action_repeat=3), seed=0)
    agent.learn(70)
    assert agent.steps == len(sent) == 70
    for start in range(0, 69, 3):
        assert np.array_equal(sent[start], sent[start + 1])
        assert np.array_equal(sent[start], sent[start + 2])
    assert len({float(actions[0, 0]) for actions in sent}) > 15


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_truncated_planning_steps_are_not_in_dataset(mode):
    from gymnasium.vector import AutoresetMode

    env = Spot(2, length=5, mode=AutoresetMode(mode))
    agent = PETS(env, config(action_repeat=2, initial_random_steps=30), seed=0)
    agent.learn(120)
    data = agent.dataset.transitions
    times = (data.next_features[:, 1] - data.features[:, 1]) * 5
    torch.testing.assert_close(times, torch.full_like(times, 2.0))
    assert set((data.features[:, 1] * 5).round().int().tolist()) == {0, 2}


@pytest.mark.parametrize("dynamics", ["learned", "simulator"])
def test_loaded_planner_plans_the_same_after_begin(dynamics, tmp_path):
    env = open_env(SWING_UP, 3)
    agent = PETS(env, replace(QUICK, dynamics=dynamics), seed=0)
    agent.learn(60)
    save_agent(agent, tmp_path)
    loaded = load_agent(tmp_path)
    observations, _ = env.reset(seed=7)
    with pytest.raises(GantryError, match="begin"):
        loaded.act(observations)
    agent.begin(env)
    loaded.begin(env)
    np.testing.assert_array_equal(agent.act(observations), loaded.act(observations))


def test_simulator_planner_is_evaluated_like_any_agent():
    settings = config(search={"horizon": 2}, dynamics="simulator", action_repeat=100)
    agent = PETS(open_env(SWING_UP, 1), settings, seed=0)
    result = evaluate(agent.act, SWING_UP, 2, begin=agent.begin)
    assert result.episodes == 2
    assert result.score > 0


def test_planning_record_does_not_change_actions():
    def played(keep_record):
        env = open_env(SWING_UP, 1)
        agent = PETS(env, config(particles=2), seed=0)
        agent.learn(40)
        agent.mpc.keep_record = keep_record
        observation, _ = env.reset(seed=7)
        agent.begin(env)
        actions = []
        for _ in range(5):
            actions.append(agent.act(observation))
            observation = env.step(actions[-1])[0]
        return agent, np.array(actions)

    (plain, without), (recording, with_record) = played(False), played(True)
    assert np.array_equal(without, with_record)
    assert plain.mpc.record is None
    planned = recording.mpc.record
    assert planned.population.shape[0] == 7
    assert planned.chosen.shape == (7, 2, 5)
    assert math.isclose(planned.predicted_return, float(planned.returns.nan_to_num(-math.inf).max()), abs_tol=1.0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"search": {"horizon": 0}}, "horizon must be at least 1"),
        ({"search": {"population": 3}}, "population"),
        ({"search": {"elites": 0}}, "elite"),
        ({"uncertainty_penalty": 1.0}, "particles"),
        ({"terminal_value": True}, "discount"),
        ({"terminal_value": True, "discount": 0.9, "dynamics": "simulator"}, "terminal_value"),
        ({"search": {"optimizer": "gradient"}, "dynamics": "simulator"}, "gradient"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"model": {"ensemble_size": 0}}, "ensemble_size"),
        ({"model": {"hidden_sizes": (0,)}}, "hidden_sizes"),
    ],
)
def test_planner_config_rejects_invalid_settings(changes, complaint):
    with pytest.raises(GantryError, match=complaint) as error:
        config(**changes)
    assert "\n" not in str(error.value)


def test_missing_capabilities_of_environment_are_reported():
    with pytest.raises(GantryError, match="dynamics=learned"):
        PETS(Spot(1), config(dynamics="simulator"))
    with pytest.raises(GantryError, match="reward=learned"):
        PETS(Spot(1), config(reward="task"))
    with pytest.raises(GantryError, match="Discrete"):
        PETS(Spot(1, discrete=True), config(search={"optimizer": "mppi"}))
    with pytest.raises(GantryError, match="angle_columns must be"):
        PETS(Spot(1), config(angle_columns=(9,)))


@pytest.mark.parametrize(
    "changes",
    [
        {"search": {"optimizer": "cem"}},
        {"search": {"optimizer": "mppi"}, "propagation": "ts1", "sample_predictions": True},
        {"search": {"optimizer": "random-shooting"}, "particles": 2, "uncertainty_penalty": 0.1},
        {"search": {"optimizer": "gradient", "iterations": 1}},
        {"terminal_value": True, "discount": 0.95},
    ],
)
def test_pets_runs_with_every_optimizer_and_option(changes):
    agent = PETS(open_env(SWING_UP, 1), config(**changes), seed=0)
    agent.learn(40)
    assert agent.steps == 40


def test_broken_update_is_undone():
    class Breaking(Spot):
        steps = 0

        def step(self, actions):
            Breaking.steps += 1
            if Breaking.steps == 45:
                raise RuntimeError("broken")
            return super().step(actions)

    agent = PETS(Breaking(1), QUICK, seed=0)
    states = []
    with pytest.raises(RuntimeError, match="broken"):
        agent.learn(100, lambda agent, metrics: states.append(agent.checkpoint.state()))
    end = agent.checkpoint.state()
    parts = ("dynamics.", "dataset.", "collector.", "random.", "reward_model.", "optimizers.dynamics.")
    assert agent.steps == 40 == len(agent.dataset)
    assert all(torch.equal(end[name], tensor) for name, tensor in states[-1].items() if name.startswith(parts))


def test_diverging_fit_stops_learning_and_keeps_last_model():
    agent = PETS(Spot(1), config(model={"learning_rate": 1e10}), seed=0)
    with pytest.raises(GantryError, match="NaN or infinite"):
        agent.learn(200)
    assert all(bool(tensor.isfinite().all()) for tensor in agent.checkpoint.state().values())


def test_ensemble_beyond_memory_is_refused():
    with pytest.raises(GantryError, match=r"ensemble_size or hidden_sizes .* GiB"):
        PETS(Spot(1), config(model={"ensemble_size": 10**12}))


# --- films and plots


def test_plan_markers_follow_trajectories_and_end_with_boldest():
    population = torch.zeros(3, 4, 2, 2)
    population[..., 0] = torch.arange(4.0)[None, :, None]  # plan number, in both particles
    chosen = torch.zeros(3, 2, 2)
    chosen[:, :, 0] = torch.tensor([10.0, 20.0])  # as predicted by two members
    planned = PlanningRecord(population, torch.tensor([1.0, math.nan, 3.0, 2.0]), chosen, 2, 5.0)

    def point(features):
        return np.concatenate([features, np.zeros_like(features[..., :1])], -1)

    drawn = plan_markers(planned, point, extent=1.0)
    assert [float(marker.points[0, 0]) for marker in drawn] == [0.0, 1.0, 2.0, 3.0, 10.0, 20.0, 15.0]
    assert all(marker.points.shape == (3, 3) and marker.line for marker in drawn)
    opacity = [marker.rgba[3] for marker in drawn]
    assert opacity[0] == opacity[1] < opacity[2] == opacity[3] < opacity[-1] == max(opacity)
    assert drawn[-1].radius == max(marker.radius for marker in drawn)
    assert plan_markers(planned, lambda features: None, 1.0) == []


def test_planner_run_is_trained_filmed_and_plotted(tmp_path):
    run = Run(tmp_path / "run")
    agent = train(run, SWING_UP, "planner", config(action_repeat=10), 300, seed=0)
    draw_model_calibration(run.folder / "dynamics.png", agent.accuracy)
    with Image.open(run.folder / "dynamics.png") as picture:
        assert picture.size[0] > picture.size[1] > 300
    assert [row["steps"] for row in run.read_metrics()] == [200.0, 300.0]
    short = {"max_episode_steps": 200}
    settings = {"env_options": short, "size": (96, 72), "backend": "raycast"}
    film = record(agent, SWING_UP, tmp_path / "film.mp4", speed=8.0, **settings)
    assert film.frames == 15


def test_plan_returns_compare_predicted_with_achieved_over_the_horizon():
    predictions = [None, *(PlanPrediction(value, 3) for value in (5.0, 5.0, 6.0, 6.0, 7.0))]
    returns = list(plan_returns(predictions, [32.0, 1.0, 2.0, 4.0, 8.0, 16.0]))
    assert returns == [
        None,
        PlanReturns(5.0, 7.0),
        PlanReturns(5.0, 7.0),
        PlanReturns(6.0, 28.0),
        PlanReturns(6.0, 28.0),
        PlanReturns(7.0, None),
    ]
