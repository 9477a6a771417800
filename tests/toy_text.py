"""The transition tables of Gymnasium's toy-text environments as Markov decision processes, for tests."""

import numpy as np

from gantry.optimal_control.value_iteration import FiniteMDP


def toy_text_mdp(env):
    """Return the MDP of an environment's `P`: state → action → [(probability, next state, reward, terminated)]."""
    table = env.unwrapped.P
    most = max(len(outcomes) for actions in table.values() for outcomes in actions.values())
    shape = (len(table), len(table[0]), most)
    mdp = FiniteMDP(np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape, bool), np.zeros(shape))
    for state, actions in table.items():
        for action, outcomes in actions.items():
            for number, (probability, next_state, reward, terminated) in enumerate(outcomes):
                place = (state, action, number)
                mdp.probability[place], mdp.next_state[place] = probability, next_state
                mdp.reward[place], mdp.terminated[place] = reward, terminated
    return mdp
