"""The machine: its processor cores, its memory, and PyTorch's threads."""
