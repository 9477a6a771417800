"""Models for planning: learned dynamics and rewards, the simulator itself, and the search for action sequences."""
