"""Minimization of plain functions of x and y, as `gantry optimize` shows it."""
