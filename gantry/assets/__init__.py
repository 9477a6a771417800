"""Models and floor plans."""
