"""What a planner is made of: dynamics and rewards, learned or a simulator's own, and the search over plans."""
