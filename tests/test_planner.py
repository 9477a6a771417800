import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from agent_doubles import Spot
from PIL import Image

from gantry.agents.ladder.stepping import open_environment
from gantry.agents.models.dataset import Transitions
from gantry.agents.models.ensemble import EnsembleConfig
from gantry.agents.models.model_rollouts import ModelRollouts, PlanningObjective, evaluate_rollouts
from gantry.agents.models.plan_search import PlanSearch, finite_costs
from gantry.agents.models.reward_model import LearnedReward, TaskReward
from gantry.agents.models.terminal_value import TerminalValue
from gantry.agents.parts.threads import torch_threads
from gantry.agents.planner import Imagination, Planner, PlannerConfig
from gantry.envs.simulator import make_simulator
from gantry.errors import GantryError
from gantry.film.overlay import PlanReturns
from gantry.film.plan_overlay import PlanPrediction, plan_markers, plan_returns
from gantry.film.record import record
from gantry.plots import model_calibration
from gantry.runs.evaluate import evaluate
from gantry.runs.folder import Run
from gantry.runs.recipes import recipe_for
from gantry.runs.train import train

SWING_UP = "gantry/CartPoleSwingUp-v0"
QUICK = {
    "horizon": 6,
    "population": 16,
    "elites": 4,
    "iterations": 2,
    "members": 2,
    "hidden_sizes": (16,),
    "fit_steps": 50,
    "random_decisions": 20,
    "update_decisions": 10,
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with torch_threads(1):
        yield


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def config(**changes):
    return PlannerConfig(**{**QUICK, **changes})


class Bowl:
    """Model whose returns are minus the squared distance of an action sequence from a target."""

    def __init__(self, target):
        self.target = target

    def evaluate_action_sequences(self, features, env_ids, actions, generator):
        returns = -(actions - self.target).square().sum((1, 2))
        trajectories = torch.zeros(actions.shape[1] + 1, len(actions), 1, features.shape[1])
        return ModelRollouts(trajectories, returns, torch.zeros(actions.shape[1], len(actions)))


# --- returns of model rollouts


def test_rollout_return_is_discounted_sum_until_termination():
    rewards = torch.tensor([1.0, 2.0, 4.0])[:, None, None].expand(3, 2, 1)
    ended = torch.zeros(3, 2, 1, dtype=torch.bool)
    ended[1, 1] = True
    rollouts = evaluate_rollouts(
        torch.zeros(4, 2, 1, 3), rewards, ended, torch.zeros(2, dtype=torch.bool), PlanningObjective(0.5)
    )
    torch.testing.assert_close(rollouts.returns, torch.tensor([1 + 1 + 1.0, 1 + 1.0]))


def test_terminal_value_is_added_unless_terminated():
    ended = torch.zeros(2, 2, 1, dtype=torch.bool)
    ended[0, 1] = True
    scoring = PlanningObjective(0.5, terminal_value=lambda features: features[..., 0] * 100)
    path = torch.full((3, 2, 1, 1), 2.0)
    rollouts = evaluate_rollouts(path, torch.ones(2, 2, 1), ended, torch.zeros(2, dtype=torch.bool), scoring)
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


@pytest.mark.parametrize("environment", [SWING_UP, "gantry/Reach-v0", "gantry/VacuumRooms-v0", "gantry/Vacuum-v0"])
def test_simulator_rollout_matches_environment_steps(environment):
    env = make_simulator(environment, 3)
    env.reset(seed=4)
    env.action_space.seed(1)
    for _ in range(2):
        env.step(env.action_space.sample())
    repeat = 2 if environment == SWING_UP else 1
    actions = np.stack([env.action_space.sample() for _ in range(2)], 1)
    before = env.get_state()
    path, rewards, ended = env.planning_model().rollout(np.array([2, 0, 1, 2]), actions[[2, 0, 1, 2]], repeat)
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
        np.testing.assert_array_equal(ended[step], ~running[[2, 0, 1, 2]])
        if running.all():
            np.testing.assert_array_equal(path[step + 1], env.features[[2, 0, 1, 2]])


@pytest.mark.parametrize("environment", [SWING_UP, "gantry/Reach-v0", "gantry/ReachPlanar-v0", "gantry/VacuumRooms-v0"])
def test_task_reward_matches_environment_reward(environment):
    env = make_simulator(environment, 4)
    observations, _ = env.reset(seed=0)
    env.action_space.seed(2)
    actions = env.action_space.sample()
    model = env.planning_model()
    features = torch.from_numpy(model.features(observations))
    observations, rewards, terminations, _, infos = env.step(actions)
    final = (
        np.where(infos["_final_obs"][:, None], infos["final_obs"], observations) if terminations.any() else observations
    )
    following = torch.from_numpy(model.features(final))
    planned = actions if actions.dtype.kind == "f" else np.eye(env.single_action_space.n, dtype=np.float32)[actions]
    to_environment = (lambda a: a) if actions.dtype.kind == "f" else (lambda a: a.argmax(-1))
    reward_model = TaskReward(model, to_environment, repeat=3)
    reward = reward_model.reward(features, torch.from_numpy(planned), following)
    np.testing.assert_allclose(reward.numpy(), 3 * rewards, rtol=1e-5, atol=1e-5)
    ended = reward_model.terminated(following)
    assert ended is None or np.array_equal(ended.numpy(), terminations)


def test_partial_observations_give_no_features():
    model = make_simulator(SWING_UP, 1, observe_velocity=False).planning_model()
    assert model.features(np.zeros((1, 3), np.float32)) is None


@pytest.mark.parametrize("environment", ["gantry/Reach-v0", "gantry/ReachPlanar-v0", SWING_UP])
def test_drawn_point_matches_mujoco_kinematics(environment):
    env = make_simulator(environment, 2)
    env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(5):
        env.step(env.action_space.sample())
    import mujoco

    for row in range(2):
        data, model = env.batch.get_data(row), env.batch.get_model(row)
        mujoco.mj_forward(model, data)
        point = env.planning_model().point(env.features[row])
        if environment == SWING_UP:
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
    settings = config(optimizer=optimizer, horizon=3, population=400, iterations=5, elites=20, colour=0.0)
    search = PlanSearch(settings.search, 2, torch.ones(2, dtype=torch.bool))
    plans = search.warm_start(2)
    for _ in range(3):
        decision = search.plan(plans, torch.tensor([0, 1]), torch.zeros(2, 1), Bowl(target), generator())
    worst = 0.35 if optimizer == "random-shooting" else 0.2
    assert float((decision.actions - target[0]).abs().max()) < worst
    assert not bool(decision.failed.any())


def test_gradient_optimizer_refines_best_sample():
    target = torch.full((4, 1), 0.3)
    settings = config(optimizer="gradient", horizon=4, population=8, iterations=10)
    search = PlanSearch(settings.search, 1, torch.ones(1, dtype=torch.bool))
    decision = search.plan(search.warm_start(1), torch.tensor([0]), torch.zeros(1, 1), Bowl(target), generator())
    torch.testing.assert_close(decision.plan, target, atol=1e-3, rtol=0)


def test_discrete_plans_are_one_hot():
    target = torch.nn.functional.one_hot(torch.tensor([2, 0, 1]), 3).float()
    search = PlanSearch(config(horizon=3, population=60, iterations=4).search, 3, None)
    decision = search.plan(search.warm_start(1), torch.tensor([0]), torch.zeros(1, 1), Bowl(target), generator())
    assert torch.equal(decision.plan, target)
    assert float(decision.predicted_returns) == 0.0


def test_warm_start_is_shifted_plan():
    target = torch.tensor([[0.5], [0.1], [-0.4]])
    search = PlanSearch(
        config(horizon=3, population=400, iterations=8, momentum=0.0).search, 1, torch.ones(1, dtype=torch.bool)
    )
    plans = search.warm_start(1)
    search.plan(plans, torch.tensor([0]), torch.zeros(1, 1), Bowl(target), generator())
    torch.testing.assert_close(plans.mean[0], target[[1, 2, 2]], atol=0.1, rtol=0)
    assert bool(plans.available[0])
    plans.reset(torch.tensor([True]))
    assert not bool(plans.available[0])


@pytest.mark.parametrize("carried_out", ["best", "mean"])
def test_executed_plan_is_best_sample_or_mean(carried_out):
    target = torch.tensor([[0.5], [0.1], [-0.4]])
    search = PlanSearch(config(horizon=3, carried_out=carried_out).search, 1, torch.ones(1, dtype=torch.bool))
    plans = search.warm_start(1)
    decision = search.plan(plans, torch.tensor([0]), torch.zeros(1, 1), Bowl(target), generator())
    goes_on_from_it = torch.equal(decision.plan[1:], plans.mean[0, :-1])  # which is always the mean
    assert goes_on_from_it == (carried_out == "mean")
    assert torch.equal(decision.actions[0], decision.plan[0])


def test_where_the_model_foresees_nothing_finite_the_last_good_plan_goes_on_and_it_is_said_once():
    env = open_environment(SWING_UP, 1)
    agent = Planner(env, config(), seed=0)
    agent.learn(60)
    observation, _ = env.reset(seed=1)
    agent.begin(env)
    agent.act(observation)
    planned = agent._acting.plans.mean[0].clone()
    for weight, _ in agent.dynamics.ensemble._hidden:
        weight.fill_(math.nan)
    with pytest.warns(RuntimeWarning, match="last good plan"):
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
    following = features + 0.5 * actions
    reward = -following[:, 0].square() + 0.3 * actions[:, 0]
    ended = following[:, 0] > 0.7 if ends else torch.zeros(number, dtype=torch.bool)
    return Transitions(features, actions, following, reward, ended, torch.arange(number) % 10 == 0)


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
    following = torch.tensor([1.0, 2.0, 2.0]).repeat(60)[:, None]
    rewards = torch.tensor([1.0, 2.0, 1.0]).repeat(60)
    none = torch.zeros(180, dtype=torch.bool)
    value = TerminalValue(1, EnsembleConfig(ensemble_size=1, hidden_sizes=(16,), gradient_steps=200), generator())
    data = Transitions(features, torch.zeros(180, 1), following, rewards, none, none)
    for _ in range(4):
        value.fit(data, 0.5, generator())
    torch.testing.assert_close(
        value(torch.tensor([[0.0], [1.0], [2.0]])), torch.tensor([2.5, 3.0, 2.0]), atol=0.2, rtol=0
    )


# --- the agent


def test_it_learns_to_name_the_spot_with_a_learned_reward():
    agent = Planner(Spot(4), config(horizon=1, update_decisions=100, fit_steps=200, population=64, elites=8), seed=0)
    agent.learn(600)
    env = Spot(16)
    observations, _ = env.reset(seed=5)
    agent.begin(env)
    error = np.abs(agent.act(observations)[:, 0] - observations[:, 0])
    assert agent.config.reward == "learned"
    assert float(error.mean()) < 0.15


@pytest.mark.slow
def test_it_learns_to_swing_up_in_a_minute_of_the_robots_time():
    recipe = recipe_for(SWING_UP, "planner")
    agent = Planner(SWING_UP, recipe.config, seed=0).learn(recipe.total_steps)
    # Single episodes may need a second attempt, so that the mean of few varies; random actions score some 40.
    assert evaluate(agent.act, SWING_UP, 3, begin=agent.begin).score > 700


@pytest.mark.parametrize("kind", ["continuous", "discrete", "simulator"])
def test_two_runs_of_one_seed_are_equal_and_a_resumed_one_equals_an_unbroken_one(kind):
    settings = config(action_repeat=2, dynamics="simulator" if kind == "simulator" else "learned")
    actions = {"actions": "discrete" if kind == "discrete" else "continuous"}

    def fresh():
        return Planner(SWING_UP, settings, seed=1, env_kwargs=actions)

    def rows(agent, total, stop=None):
        found = []

        def note(_, metrics):
            found.append({k: v for k, v in metrics.items() if k not in ("planning_ms", "real_time_factor")})
            return stop is None or len(found) < stop

        agent.learn(total, note)
        return found

    first, second = fresh(), fresh()
    unbroken = rows(first, 100)
    np.testing.assert_equal(rows(second, 100), unbroken)
    third = fresh()
    begun = rows(third, 100, stop=2)
    state = third.trainer_state()
    resumed = fresh()
    resumed.load_trainer_state(*state)
    np.testing.assert_equal(begun + rows(resumed, 100), unbroken)
    end, other = first.trainer_state()[0], resumed.trainer_state()[0]
    assert all(torch.equal(end[name], other[name]) for name in end)


def test_exactly_the_asked_steps_are_used_and_each_decision_is_held():
    sent = []

    class Watched(Spot):
        def step(self, actions):
            sent.append(actions.copy())
            return super().step(actions)

    agent = Planner(Watched(1, length=12), config(action_repeat=3), seed=0)
    agent.learn(70)
    assert agent.steps == len(sent) == 70
    for start in range(0, 69, 3):
        assert np.array_equal(sent[start], sent[start + 1])
        assert np.array_equal(sent[start], sent[start + 2])
    assert len({float(actions[0, 0]) for actions in sent}) > 15


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_a_decision_that_the_time_limit_cuts_short_is_not_learned_from(mode):
    from gymnasium.vector import AutoresetMode

    env = Spot(2, length=5, mode=AutoresetMode(mode))
    agent = Planner(env, config(action_repeat=2, random_decisions=30), seed=0)
    agent.learn(120)
    data = agent._memory.transitions
    times = (data.next_features[:, 1] - data.features[:, 1]) * 5
    torch.testing.assert_close(times, torch.full_like(times, 2.0))
    assert set((data.features[:, 1] * 5).round().int().tolist()) == {0, 2}


def test_a_saved_planner_plans_the_same_once_it_is_told_where(tmp_path):
    env = open_environment(SWING_UP, 3)
    agent = Planner(env, config(), seed=0)
    agent.learn(60)
    agent.save(tmp_path)
    loaded = Planner.load(tmp_path)
    observations, _ = env.reset(seed=7)
    with pytest.raises(GantryError, match="begin"):
        loaded.act(observations)
    agent.begin(env)
    agent._acting_generator.manual_seed(2**32)  # what acting draws from in a planner that has been loaded
    loaded.begin(env)
    np.testing.assert_array_equal(agent.act(observations), loaded.act(observations))


def test_it_is_evaluated_like_any_agent():
    agent = Planner(SWING_UP, config(dynamics="simulator", action_repeat=100, horizon=2), seed=0)
    result = evaluate(agent.act, SWING_UP, 3, begin=agent.begin)
    assert result.episodes == 3
    assert result.score > 0


def test_pictures_change_nothing():
    def played(imagines):
        env = open_environment(SWING_UP, 1)
        agent = Planner(env, config(particles=2), seed=0)
        agent.learn(40)
        agent.imagines = imagines
        observation, _ = env.reset(seed=7)
        agent.begin(env)
        actions = []
        for _ in range(5):
            actions.append(agent.act(observation))
            observation = env.step(actions[-1])[0]
        return agent, np.array(actions)

    (plain, without), (imagining, with_pictures) = played(False), played(True)
    assert np.array_equal(without, with_pictures)
    assert plain.imagination is None
    imagined = imagining.imagination
    assert imagined.population.shape[0] == 7
    assert imagined.chosen.shape == (7, 2, 5)
    assert math.isclose(imagined.predicted, float(imagined.returns.nan_to_num(-math.inf).max()), abs_tol=1.0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"population": 3}, "population"),
        ({"elites": 0}, "elite"),
        ({"uncertainty_penalty": 1.0}, "particles"),
        ({"terminal_value": True}, "discount"),
        ({"optimizer": "gradient", "dynamics": "simulator"}, "gradient"),
        ({"held_out": 1.0}, "held_out"),
        ({"members": 0}, "ensemble_size"),
        ({"hidden_sizes": (0,)}, "hidden_sizes"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(changes, complaint):
    with pytest.raises(GantryError, match=complaint) as error:
        config(**changes)
    assert "\n" not in str(error.value)


def test_what_an_environment_does_not_offer_is_refused():
    with pytest.raises(GantryError, match="dynamics=learned"):
        Planner(Spot(1), config(dynamics="simulator"))
    with pytest.raises(GantryError, match="reward=learned"):
        Planner(Spot(1), config(reward="task"))
    with pytest.raises(GantryError, match="Discrete"):
        Planner(Spot(1, discrete=True), config(optimizer="mppi"))
    with pytest.raises(GantryError, match="angle_columns must be"):
        Planner(Spot(1), config(angles=(9,)))


def test_every_optimizer_option_runs_end_to_end():
    for changes in (
        {"optimizer": "cem"},
        {"optimizer": "mppi", "sampling": "ts1", "noise": True},
        {"optimizer": "random-shooting", "particles": 2, "uncertainty_penalty": 0.1},
        {"optimizer": "gradient", "iterations": 1},
        {"terminal_value": True, "discount": 0.95},
    ):
        agent = Planner(SWING_UP, dataclasses.replace(config(), **changes), seed=0)
        agent.learn(40)
        assert agent.steps == 40


# --- pictures


def test_imagined_lines_go_through_the_points_of_their_futures_and_end_with_the_boldest():
    population = torch.zeros(3, 4, 2, 2)
    population[..., 0] = torch.arange(4.0)[None, :, None]  # plan number, in both particles
    chosen = torch.zeros(3, 2, 2)
    chosen[:, :, 0] = torch.tensor([10.0, 20.0])  # what two members make of it
    imagined = Imagination(population, torch.tensor([1.0, math.nan, 3.0, 2.0]), chosen, 2, 5.0)

    def point(features):
        return np.concatenate([features, np.zeros_like(features[..., :1])], -1)

    drawn = plan_markers(imagined, point, extent=1.0)
    assert [float(marker.points[0, 0]) for marker in drawn] == [0.0, 1.0, 2.0, 3.0, 10.0, 20.0, 15.0]
    assert all(marker.points.shape == (3, 3) and marker.line for marker in drawn)
    opacity = [marker.rgba[3] for marker in drawn]
    assert opacity[0] == opacity[1] < opacity[2] == opacity[3] < opacity[-1] == max(opacity)
    assert drawn[-1].radius == max(marker.radius for marker in drawn)
    assert plan_markers(imagined, lambda features: None, 1.0) == []


def test_a_run_is_trained_filmed_and_drawn(tmp_path):
    run = Run(tmp_path / "run")
    agent = train(run, SWING_UP, "planner", config(action_repeat=10), 400, seed=0)
    model_calibration.draw(run.folder / "dynamics.png", agent.accuracy)
    with Image.open(run.folder / "dynamics.png") as picture:
        assert picture.size[0] > picture.size[1] > 300
    assert [row["steps"] for row in run.read_metrics()] == [200.0, 300.0, 400.0]
    film = record(agent, SWING_UP, tmp_path / "film.mp4", size=(96, 72), backend="raycast", speed=20.0)
    assert film.frames == 15


def test_plan_returns_compare_predicted_with_achieved_over_the_horizon():
    predictions = [None, *(PlanPrediction(value, 3) for value in (5.0, 5.0, 6.0, 6.0, 7.0))]
    returns = plan_returns(predictions, [32.0, 1.0, 2.0, 4.0, 8.0, 16.0])
    assert returns == [
        None,
        PlanReturns(5.0, 7.0),
        PlanReturns(5.0, 7.0),
        PlanReturns(6.0, 28.0),
        PlanReturns(6.0, 28.0),
        PlanReturns(7.0, None),
    ]
