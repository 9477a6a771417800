"""Settings: dataclasses whose types say what a value may be."""
