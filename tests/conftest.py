import hypothesis
import pytest

hypothesis.settings.register_profile("gantry", derandomize=True, deadline=None)
hypothesis.settings.load_profile("gantry")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--task", help="test this task, such as my_module:my/Task-v0, in place of Gantry's own")
