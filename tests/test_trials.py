"""Trials: several episodes in one hidden physics, and observations that hold the physics."""

import gymnasium
import numpy as np
import pytest

from gantry.agents.recurrent_ppo import RecurrentPPO, RecurrentPPOConfig
from gantry.envs import make, make_vec
from gantry.envs.simulator import Simulator, make_simulator
from gantry.envs.tasks.cart_pole import CartPole
from gantry.errors import GantryError
from gantry.film.overlay import OverlayState, Panel
from gantry.film.record import record
from gantry.optimal_control.solve import solve
from gantry.runs.evaluate import evaluate

ID = "gantry/CartPoleBalance-v0"
PHYSICS = {"pole_length": "0.5..2", "cart_mass": "0.5..2", "motor_sign": "-1..1"}
TRIAL = {"physics": PHYSICS, "trial": 3, "max_episode_steps": 12}
"""Three episodes of four steps."""
N, STEPS = 5, 30


def actions(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.5, 1.5, (STEPS, N, 1)).astype(np.float32)


def test_trial_keeps_its_physics_and_ends_after_its_last_episode():
    envs = make_simulator(ID, N, **TRIAL)
    _, infos = envs.reset(seed=7)
    physics = [infos["physics"]]
    for step, action in enumerate(actions(), 1):
        _, _, terminated, truncated, infos = envs.step(action)
        assert not terminated.any()
        assert truncated.all() == truncated.any() == (step % 12 == 0)
        assert (infos["trial_episode"] == (step - 1) % 12 // 4).all()
        if step % 12 == 0:
            physics.append(infos["physics"])
        for name, values in infos["physics"].items():
            np.testing.assert_array_equal(values, physics[-1][name])
    for name in ("pole_length", "cart_mass"):
        assert len(np.unique([sample[name] for sample in physics])) == 3 * N


def test_trial_observation_holds_action_reward_and_end_of_the_step_before():
    envs = make_simulator(ID, N, **TRIAL)
    observations, _ = envs.reset(seed=7)
    assert envs.single_observation_space.shape == (8,)
    assert (observations[:, 5:] == 0).all()
    for step, action in enumerate(actions(), 1):
        observations, rewards, _, _, infos = envs.step(action)
        seen = infos.get("final_obs", observations)
        np.testing.assert_array_equal(seen[:, 5], np.clip(action[:, 0], -1, 1))
        np.testing.assert_array_equal(seen[:, 6], rewards.astype(np.float32))
        np.testing.assert_array_equal(seen[:, 7], float(step % 4 == 0 and step % 12 != 0))
        if step % 12 == 0:
            assert (observations[:, 5:] == 0).all()


def test_trial_shows_a_chosen_action_one_hot():
    envs = make_simulator(ID, 3, trial=2, actions="discrete")
    envs.reset(seed=0)
    observations = envs.step(np.array([0, 1, 2]))[0]
    np.testing.assert_array_equal(observations[:, 5:8], np.eye(3))


def test_trial_episodes_equal_those_of_the_same_seed_and_number_without_trials():
    fixed = {"pole_length": 0.7, "motor_sign": -1.0}
    joined = make_simulator(ID, N, physics=fixed, trial=3, max_episode_steps=12)
    apart = make_simulator(ID, N, physics=fixed, max_episode_steps=4)
    seen, alone = joined.reset(seed=3)[0], apart.reset(seed=3)[0]
    for action in actions():
        np.testing.assert_array_equal(seen[:, :5], alone)
        (seen, rewards, *_), (alone, expected, *_) = joined.step(action), apart.step(action)
        np.testing.assert_array_equal(rewards, expected)


class Short(CartPole):
    """A cart-pole whose episodes end in a terminal state once the cart is pushed off its middle."""

    def terminated(self, next_features):
        return abs(next_features[..., 0]) > 0.11


def test_terminal_state_within_a_trial_begins_its_next_episode_and_in_the_last_one_ends_it():
    envs = Simulator(Short(swing_up=False), N, max_episode_steps=300, trial=3)
    envs.reset(seed=0)
    push = np.ones((N, 1), np.float32)
    ends, episode = np.zeros(N, int), np.zeros(N, int)
    for _ in range(60):
        observations, _, terminated, truncated, infos = envs.step(push)
        assert not truncated.any()
        np.testing.assert_array_equal(infos["trial_episode"], episode)
        begun = observations[:, -1] == 1.0
        assert (abs(observations[begun, 0]) <= 0.1).all(), "the next episode's start is seen"
        assert not (begun & terminated).any()
        assert (episode[terminated] == 2).all()
        episode = np.where(terminated, 0, episode + begun)
        ends += terminated
    assert (ends >= 1).all()


@pytest.mark.parametrize("more", [{}, {"observe_physics": True}, {"stack": 2}])
def test_trial_rows_equal_single_environments_bit_for_bit_and_resume_exactly(more):
    options = {**TRIAL, "physics": {**PHYSICS, "motor_delay": "0..2", "sensor_noise": 0.01}, **more}
    envs = make_vec(ID, N, **options)
    singles = [make(ID, **options) for _ in range(N)]
    seen, _ = envs.reset(seed=11)
    np.testing.assert_array_equal(seen, [single.reset(seed=11 + row)[0] for row, single in enumerate(singles)])
    for step, action in enumerate(actions()):
        seen, rewards, _, truncated, infos = envs.step(action)
        for row, single in enumerate(singles):
            own, reward, _, over, info = single.step(action[row])
            np.testing.assert_array_equal(own, infos.get("final_obs", seen)[row])
            assert (reward, over) == (rewards[row], truncated[row])
            assert info["trial_episode"] == infos["trial_episode"][row]
            if over:
                np.testing.assert_array_equal(single.reset()[0], seen[row])
        if step == 17:
            state = envs.unwrapped.get_state()
    again = make_vec(ID, N, **options)
    again.unwrapped.set_state(state)
    for action in actions()[18:]:
        last = again.step(action)[0]
    np.testing.assert_array_equal(last, seen)


def test_observed_physics_are_scaled_values_in_the_order_of_declaration():
    given = {"sensor_noise": [0.0, 0.0], "motor_sign": [-1.0, 1.0], "pole_length": [0.5, 4.0], "rail_friction": [0, 2]}
    envs = make_simulator(ID, 2, physics=given, observe_physics=True)
    observations, _ = envs.reset(seed=0)
    named = {name: observations[:, 5 + place] for place, name in enumerate(["sensor_noise", *CartPole.physics])}
    np.testing.assert_allclose(named["pole_length"], np.log([0.5, 4.0]), rtol=1e-6)
    np.testing.assert_allclose(named["motor_sign"], [-2.0, 0.0])
    np.testing.assert_allclose(named["rail_friction"], [0.0, 2.0])
    for name in ("sensor_noise", "pole_mass", "cart_mass"):
        assert (named[name] == 0).all(), "as in the model"
    assert envs.observation_space.contains(observations)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_motor_sign_reverses_the_force_and_nothing_else(sign):
    envs = make_simulator(ID, 1, physics={"motor_sign": sign, "gear": 0.5})
    usual = make_simulator(ID, 1, physics={"gear": 0.5})
    (seen, _), (same, _) = envs.reset(seed=1), usual.reset(seed=1)
    for action in actions()[:, :1]:
        np.testing.assert_array_equal(seen, same)
        seen, same = envs.step(sign * action)[0], usual.step(action)[0]


def test_evaluation_scores_each_episode_of_a_trial():
    def act(observations: np.ndarray) -> np.ndarray:
        begun = observations[:, 7:] if observations.shape[1] > 5 else np.zeros((N, 1))
        return 1.0 * (begun > 0)  # in the first step of a trial's later episodes

    whole = evaluate(act, ID, N, env_options={**TRIAL, "physics": {"pole_length": 0.7}})
    first = evaluate(act, ID, N, env_options={"physics": {"pole_length": 0.7}, "max_episode_steps": 4})
    assert len(whole.trial_scores) == 3
    assert whole.score == pytest.approx(np.mean(whole.trial_scores))
    assert whole.trial_scores[0] == pytest.approx(first.score)
    assert max(whole.trial_scores[1:]) < first.score, "pushing costs"
    assert ("score, episode 3 of a trial", f"{whole.trial_scores[2]:.1f}") in whole.rows()
    assert first.trial_scores == ()


def test_optimal_control_plans_in_a_given_physics():
    physics = {"motor_sign": -1.0, "pole_length": "0.5", "cart_mass": 2}
    planned = solve(ID, "lqr", 1, env_options={"physics": physics, "max_episode_steps": 40})
    assert planned.evaluation.score > 990
    with_usual = solve(ID, "lqr", 1, env_options={"max_episode_steps": 40}).actions
    assert np.corrcoef(planned.actions.ravel(), with_usual.ravel())[0, 1] < 0, "pushes to the other side"


class Image(CartPole):
    """A cart-pole seen as a picture would be."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1, 5))

    def observation(self, features):
        return features[..., None, :]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trial": 0}, "trial must be a whole number of episodes"),
        ({"trial": True}, "trial must be a whole number of episodes"),
        ({"trial": "four"}, "trial must be a whole number of episodes"),
        ({"trial": 3}, "max_episode_steps=498"),
        ({"trial": 2, "max_episode_steps": None}, "needs a time limit"),
        ({"trial": 2, "shaping": 0.99}, "leave out one of the two"),
        ({"observe_physics": True}, "--randomize"),
        ({"physics": {"motor_sign": 0.5}}, "motor_sign must be one of -1, 1"),
        ({"physics": {"motor_sign": "-0.5..1"}}, "motor_sign must be one of -1, 1"),
    ],
)
def test_trials_refuse_what_does_not_fit_in_one_line(options, words):
    with pytest.raises(GantryError, match=words) as refusal:
        make_simulator(ID, 2, **options)
    assert "\n" not in str(refusal.value)


def test_trials_refuse_observations_that_are_no_row_and_planners():
    with pytest.raises(GantryError, match="one row of float32"):
        Simulator(Image(), 2, max_episode_steps=4, trial=2)
    with pytest.raises(GantryError, match="leave out trial"):
        make_simulator(ID, 1, **TRIAL).planning_model()


def test_film_of_a_trial_runs_through_its_episodes_and_notes_the_physics(tmp_path, monkeypatch):
    states: list[OverlayState] = []
    draw = Panel.draw
    monkeypatch.setattr(Panel, "draw", lambda self, state: states.append(state) or draw(self, state))

    class Still:
        def act(self, observation):
            return np.zeros((1, 1), np.float32)

    options = {"physics": {"motor_sign": -1.0}, "trial": 2, "max_episode_steps": 20}
    film = record(Still(), ID, tmp_path / "trial.gif", env_options=options, size=(160, 160), backend="raycast")
    assert film.frames == pytest.approx(20 * 0.02 * 30 + 1, abs=1)
    times = [state.time for state in states]
    assert times == sorted(times)
    assert [state.notes[0] for state in states] == sorted(state.notes[0] for state in states)
    assert states[0].notes[0] == "episode 1 of the trial"
    assert states[-1].notes[0] == "episode 2 of the trial"
    assert "motor sign -1" in states[0].notes


def test_memory_lives_through_a_trial_and_is_reset_between_trials():
    envs = make_vec(ID, N, **TRIAL)
    config = RecurrentPPOConfig(rollout_steps=26, memory_size=4, stagger_first_episodes=False, observe_action=False)
    agent = RecurrentPPO(envs, config, seed=0)
    agent.stepper.begin_episodes()
    sequences = agent.collect(26 * N)
    begun = np.flatnonzero(sequences.begins.all(1).numpy())
    assert begun.tolist() == [12, 24]
    assert sequences.begins.sum() == 2 * N
