"""`python -m gantry` is the same as `gantry`."""

import sys

from gantry.cli import program

sys.exit(program())
