"""Optimal control with known dynamics: LQR and iterative LQR for arrays, and for the environments' simulators."""
