"""From simulation to a real robot: grids of physics, control at a fixed rate, logs, identification."""
