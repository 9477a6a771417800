"""Optimal control by known dynamics: linear regulators and iterative LQR, for arrays, whatever they describe."""
