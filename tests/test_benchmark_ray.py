"""The benchmark on Ray: files come back, a lost node's jobs are done elsewhere. Needs the extra `cluster`."""

import os
from pathlib import Path

import fake_jobs
import pytest

from gantry.benchmark.ray_pool import run_ray_pool
from gantry.errors import GantryError


@pytest.fixture
def cluster(monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield cluster
    cluster.shutdown()


def jobs(tmp_path, *orders):
    folders = []
    for number, order in enumerate(orders):
        folders.append(tmp_path / f"job{number}")
        folders[-1].mkdir()
        (folders[-1] / "order.txt").write_text(order)
    return folders


@pytest.mark.slow
def test_jobs_run_on_two_nodes_and_survive_the_loss_of_one(cluster, tmp_path):
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    started = tmp_path / "started"
    started.mkdir()
    folders = jobs(tmp_path, *([f"mark {started}"] * 6))

    def kill_one(state):
        nonlocal lost
        if lost is not None and len(list(started.iterdir())) >= 2:
            cluster.remove_node(lost, allow_graceful=False)
            lost = None

    outcomes = run_ray_pool(folders, fake_jobs.work, watch=kill_one, address=cluster.address)
    assert lost is None
    assert set(outcomes.values()) == {"finished"}
    assert all((folder / "done.txt").exists() for folder in folders)
    assert len(list(started.iterdir())) > len(folders)  # what the lost node had begun was begun again


@pytest.mark.slow
def test_a_job_that_dies_each_time_is_lost_and_the_others_go_on(cluster, tmp_path):
    folders = jobs(tmp_path, "die", "work")
    outcomes = run_ray_pool(folders, fake_jobs.work, address=cluster.address)
    assert [outcomes[folder] for folder in folders] == ["lost", "finished"]


def test_no_cluster_gives_one_line():
    pytest.importorskip("ray")
    with pytest.raises(GantryError, match="cannot connect to the Ray cluster") as raised:
        run_ray_pool([], fake_jobs.work, address="127.0.0.1:1")
    assert "\n" not in str(raised.value)
