"""skrl's PPO on the batched swing-up, by the clock that measures ours: skrl has no learning loop with a callback."""

from typing import TYPE_CHECKING

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from gantry.benchmark.time_to_score import PEER_SECONDS, SWING_UP, Clock
from gantry.machine.threads import torch_threads
from gantry.types import Json

if TYPE_CHECKING:
    from skrl.agents.torch.ppo import PPO
    from skrl.envs.wrappers.torch import Wrapper

NUM_ENVS, ROLLOUT_STEPS = 256, 32
# Those of our recipe for the swing-up, by skrl's names. Values are scaled, as in all of skrl's own examples.
SETTINGS: Json = {
    "rollouts": ROLLOUT_STEPS,
    "learning_epochs": 4,
    "mini_batches": NUM_ENVS * ROLLOUT_STEPS // 1024,
    "learning_rate": 1.5e-3,
    "ratio_clip": 0.3,
    "value_clip": 0.3,
    "gae_lambda": 0.98,
    "discount_factor": 0.99,
    "time_limit_bootstrap": True,
    "experiment": {"write_interval": 0, "checkpoint_interval": 0},
}
WIDTHS = (64, 64)
LONG = 10**9
"""Steps of a training that ends by the clock."""


def skrl_learning(seed: int) -> Clock:
    """Return the clock of skrl's PPO that learned until it reached the goal, or for PEER_SECONDS."""
    from skrl import logger
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.trainers.torch import StepTrainer
    from skrl.utils import set_seed

    logger.setLevel("WARNING")
    with torch_threads(1):
        set_seed(seed)
        env = wrap_env(gymnasium.make_vec(SWING_UP, NUM_ENVS), wrapper="gymnasium", verbose=False)
        agent = _agent(env)

        def act(observations: np.ndarray) -> np.ndarray:
            inputs = {"observations": torch.as_tensor(observations, dtype=torch.float32)}
            with torch.no_grad():
                actions: np.ndarray = agent.policy.compute(inputs, "policy")[0].numpy()
            return actions.clip(-1.0, 1.0)

        clock = Clock(act)
        settings = {"timesteps": LONG, "disable_progressbar": True, "headless": True}
        trainer = StepTrainer(env=env, agents=agent, cfg=settings)
        step = 0
        while clock.to_goal is None and clock.seconds() < PEER_SECONDS:
            for _ in range(ROLLOUT_STEPS):
                trainer.train(timestep=step, timesteps=LONG)
                step += 1
            clock.check(step * NUM_ENVS)
        env.close()
    return clock


def _agent(env: "Wrapper") -> "PPO":
    """Return skrl's PPO with networks like ours."""
    from skrl.agents.torch.ppo import PPO
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.resources.preprocessors.torch import RunningStandardScaler

    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}
    inputs, outputs = env.observation_space.shape[0], env.action_space.shape[0]

    class Policy(GaussianMixin, Model):  # type: ignore[misc,unused-ignore]
        """A Gaussian with a standard deviation of its own."""

        def __init__(self) -> None:
            Model.__init__(self, **spaces)
            GaussianMixin.__init__(self)
            self.network = _network(inputs, outputs)
            self.log_std = nn.Parameter(torch.zeros(outputs))

        def compute(self, inputs: dict[str, Tensor], role: str) -> tuple[Tensor, dict[str, Tensor]]:
            """Return mean actions (n, actions) and their standard deviations."""
            return self.network(inputs["observations"]), {"log_std": self.log_std}

    class Value(DeterministicMixin, Model):  # type: ignore[misc,unused-ignore]
        """The value of an observation."""

        def __init__(self) -> None:
            Model.__init__(self, **spaces)
            DeterministicMixin.__init__(self)
            self.network = _network(inputs, 1)

        def compute(self, inputs: dict[str, Tensor], role: str) -> tuple[Tensor, dict[str, Tensor]]:
            """Return values (n, 1)."""
            return self.network(inputs["observations"]), {}

    scaled = {"value_preprocessor": RunningStandardScaler, "value_preprocessor_kwargs": {"size": 1, "device": "cpu"}}
    return PPO(
        models={"policy": Policy(), "value": Value()},
        memory=RandomMemory(memory_size=ROLLOUT_STEPS, num_envs=NUM_ENVS, device="cpu"),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device="cpu",
        cfg={**SETTINGS, **scaled},
    )


def _network(inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in zip((inputs, *WIDTHS), WIDTHS, strict=False):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(WIDTHS[-1], outputs))
