"""Data sets of episodes in Minari's format: collected from a policy, and what agents begin learning from."""
