"""Two processes of torchrun make a run together: what comes out is one process's, up to the order of sums."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from lab.sweeps.over_ranks import RECIPE, shared_job
from lab.sweeps.tiny import data, make, tiny_job, without_time

from linear_backprop_lab.records import damage, listing

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")


def torchrun(root: Path) -> None:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "lab.sweeps.over_ranks", str(root)]
    subprocess.run(command, env=environment, check=True, timeout=600)


def test_two_processes_give_one_process_s_run(tmp_path: Path) -> None:
    torchrun(tmp_path / "two")
    assert {listed.state for listed in listing(tmp_path / "two")} == {"complete"}
    two, one = shared_job(tmp_path / "two").run, shared_job(tmp_path / "one")
    make(one)
    assert damage(two) is None
    assert len(data().train_images) % RECIPE.batch_size % 2 == 0 and RECIPE.batch_size // 2 % 2 == 1
    for got, expected in zip(without_time(two), without_time(one.run), strict=True):
        # Single precision, sums in another order, 12 steps; an image of 64 on the edge may fall to another class.
        assert got == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in expected.items()}
    # Made by the first process alone, beside one that waits: to the bit.
    alone, undisturbed = tiny_job(tmp_path / "two", 0), tiny_job(tmp_path / "one", 0)
    make(undisturbed)
    assert without_time(alone.run) == without_time(undisturbed.run)
