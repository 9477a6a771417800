"""The tasks: what a robot has to do, one file a task."""
