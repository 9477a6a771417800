"""The states of agents, for tests that compare, save and resume them."""

import gymnasium
import torch


def policy_state(agent):
    """Copies of the tensors that make up the policy, by name."""
    return agent.checkpoint.policy_state()


def parameters(agent):
    """All numbers of the policy in one vector."""
    return torch.cat([tensor.double().reshape(-1) for tensor in policy_state(agent).values()])


def trainer_state(agent):
    """A copy of everything that learning on depends on."""
    return {name: tensor.clone() for name, tensor in agent.checkpoint.state().items()}


def restore(agent, state):
    """Give an agent the state that `trainer_state` returned."""
    agent.checkpoint.load_state(state)


def collected(agent, budget=10**9):
    """The transitions of one more rollout of an actor-critic, with their advantages."""
    agent.rollout.collect(budget)
    return agent.rollout.batch(agent.critic, agent.return_normalizer, agent.config.gamma, agent.config.gae_lambda)


def opened(env_id, num_envs, **options):
    """A Gymnasium vector environment with SAME_STEP autoreset."""
    if gymnasium.spec(env_id).vector_entry_point is not None:
        return gymnasium.make_vec(env_id, num_envs, **options)
    mode = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}
    return gymnasium.make_vec(env_id, num_envs, "sync", vector_kwargs=mode, **options)
