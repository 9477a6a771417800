"""Spaces: observations as vectors, and numbers as actions. All of it without PyTorch."""
