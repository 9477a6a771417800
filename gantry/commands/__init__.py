"""One module a command: its flags, as a dataclass from which the command line is generated, and what it prints."""
