"""An inverted double pendulum: balance two poles, one on the other, on a cart that a motor moves along a rail."""

from gantry import Recipe, register_recipe, register_task
from gantry.agents import PPOConfig
from gantry.envs import Task
from gantry.envs.capabilities import Disturbable, Randomizable
from gantry.envs.components import Component, box
from gantry.envs.disturbances import DisturbanceTarget
from gantry.envs.domain_randomization import PhysicalParameter
from gantry.envs.features import columns, cos_sin
from gantry.envs.rewards import clip, product, tolerance

POLE_LENGTH = 0.6  # m, of each pole

X, COS_1, COS_2, SIN_1, SIN_2 = range(5)  # columns of the features; three velocities follow


def tip_height(features):
    """Return how high the upper pole's tip is above the rail, (...) in m."""
    return POLE_LENGTH * (features[..., COS_1] + features[..., COS_2])


class DoublePendulum(Task, Randomizable, Disturbable):
    """Keep both poles upright and the cart near the middle of its rail."""

    model_file = "double_pendulum.xml"
    decimation = 4  # control steps of 20 ms
    observation_components = (
        Component("cart position", "m", -3, 3),
        Component("cosines of both poles' angles from the vertical", "", -1, 1, count=2),
        Component("sines of both poles' angles from the vertical", "", -1, 1, count=2),
        Component("cart velocity", "m/s", -50, 50),
        Component("angular velocities at both hinges", "rad/s", -200, 200, count=2),
    )
    action_components = (Component("force", "20 N", -1, 1, note="along the rail"),)
    observation_space, action_space = box(observation_components), box(action_components)
    physics = {"upper_mass": PhysicalParameter(0.15, 0.05, 0.5, "kg", "mass of the upper pole")}
    disturbance_target = DisturbanceTarget("lower_pole", force=1.0, ball_mass=0.02, ball_radius=0.05, axes=(0,))

    def reset(self, state, env_ids, random):
        state.qpos[env_ids] = random.uniform(-0.1, 0.1, 3)
        state.qvel[env_ids] = 0.1 * random.normal(3)

    def control(self, actions):
        return clip(actions, -1.0, 1.0)

    def features(self, state):
        return columns(state.qpos[:, 0], *cos_sin(state.qpos[:, 1:].cumsum(axis=1)), state.qvel)

    def reward(self, features, control, next_features):
        terms = {
            "upright": tolerance(tip_height(next_features), 2 * POLE_LENGTH, 2 * POLE_LENGTH, margin=0.4),
            "centered": 0.5 + 0.5 * tolerance(next_features[..., X], margin=1.0),
        }
        return product(terms), terms

    def set_physics(self, batch, env_ids, values):
        pole, mass = batch.model.body("upper_pole"), values["upper_mass"]
        batch.expand("body_mass")[env_ids, pole.id] = mass
        batch.expand("body_inertia")[env_ids, pole.id] = mass[:, None] / pole.mass * pole.inertia


register_task("my/DoublePendulum-v0", DoublePendulum, max_episode_steps=500, summary="balance two poles on a cart")
register_recipe(
    Recipe(
        "my/DoublePendulum-v0",
        PPOConfig(
            num_envs=256,
            rollout_steps=32,
            epochs=4,
            minibatch_size=1024,
            learning_rate=2e-3,
            learning_rate_schedule="linear",
            clip_range=0.3,
            gae_lambda=0.98,
            normalize_observation=False,
        ),
        total_steps=1_500_000,
    )
)
