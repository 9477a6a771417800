import gc

import hypothesis
import pytest

# Imported modules and collected tests are objects by the million that stay. Looking among them for garbage after every
# 700 new ones takes a twentieth of the time of importing.
gc.set_threshold(10_000, 20, 20)

hypothesis.settings.register_profile("gantry", derandomize=True, deadline=None)
hypothesis.settings.load_profile("gantry")


def pytest_collection_finish() -> None:
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--task", help="test this task, such as my_module:my/Task-v0, in place of Gantry's own")
