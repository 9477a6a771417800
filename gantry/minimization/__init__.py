"""Test functions for optimizers, films of minimizations, and SciPy's methods for comparison."""
