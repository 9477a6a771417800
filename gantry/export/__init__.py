"""Policies as ONNX files: one file that holds all that acting needs, for programs without Gantry or PyTorch."""
