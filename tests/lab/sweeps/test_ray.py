"""The same sweep on a Ray cluster that is started on this machine."""

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from lab.sweeps.over_ray import FAULTS
from lab.sweeps.tiny import make, tiny_job, without_time

from linear_backprop_lab.records import damage
from linear_backprop_lab.sweeps import EngineError, Outcome, run_on_ray

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: it has no wheel everywhere")


def test_a_cluster_makes_the_runs_and_tries_again_what_died(tmp_path: Path) -> None:
    """One started for the sweep, then one that was there before, whose GPU four runs share."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "lab.sweeps.over_ray", str(tmp_path)]
    ran = subprocess.run(command, env=environment, check=True, timeout=900, stdout=subprocess.PIPE, text=True)
    told = json.loads(ran.stdout.splitlines()[-1])
    assert isinstance(told["there"][0][0], int)
    failed = Outcome("failed", "ZeroDivisionError: no such [thing]")
    done = Outcome("done")
    assert [Outcome(**what[-1]) for what in told["here"]] == [done]
    assert [Outcome(**what[-1]) for what in told["there"]] == [done, done, failed, done]
    there = tmp_path / "there"
    assert (there / "died").exists()
    assert json.loads((there / "assigned.json").read_text()) == {"CPU": 1, "GPU": 0.25}
    jobs = [tiny_job(there, seed, fault) for seed, fault in enumerate(FAULTS)]
    for job in (tiny_job(tmp_path / "here", 0), *jobs[:2]):
        undisturbed = tiny_job(tmp_path / "undisturbed", job.run.config["seed"])
        if not undisturbed.run.is_complete:
            make(undisturbed)
        assert damage(job.run) is None
        assert without_time(job.run) == without_time(undisturbed.run)
    assert jobs[2].run.failure == failed.error


def test_where_no_cluster_answers_it_is_said_at_once() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        with pytest.raises(EngineError, match=f"no Ray cluster answers at {address} .*ray start --head"):
            run_on_ray([], lambda index, what: None, address=address)
