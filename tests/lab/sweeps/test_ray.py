"""The same sweep on a Ray cluster that the test starts on this machine."""

import socket
import sys
from os import pathsep
from pathlib import Path

import pytest
from lab.sweeps.tiny import make, tiny_job, without_time

from linear_backprop_lab.records import damage
from linear_backprop_lab.sweeps import EngineError, Outcome, run_on_ray


def test_a_cluster_makes_the_runs_and_tries_again_what_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray has no wheel for this Python")
    monkeypatch.setenv("PYTHONPATH", pathsep.join(sys.path))
    jobs = [tiny_job(tmp_path, seed, fault) for seed, fault in enumerate(("", "killed once", "error"))]
    told: dict[int, list[int | Outcome]] = {0: [], 1: [], 2: []}
    run_on_ray(jobs, lambda index, what: told[index].append(what))
    assert [what[-1] for what in told.values()] == [
        Outcome("done"),
        Outcome("done"),
        Outcome("failed", "ZeroDivisionError: no such [thing]"),
    ]
    assert isinstance(told[0][0], int)
    for job in jobs[:2]:
        undisturbed = tiny_job(tmp_path / "undisturbed", job.run.config["seed"])
        make(undisturbed)
        assert damage(job.run) is None
        assert without_time(job.run) == without_time(undisturbed.run)
    assert jobs[2].run.failure == "ZeroDivisionError: no such [thing]"


def test_where_no_cluster_answers_it_is_said_at_once() -> None:
    pytest.importorskip("ray", reason="Ray has no wheel for this Python")
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        with pytest.raises(EngineError, match=f"no Ray cluster answers at {address} .*ray start --head"):
            run_on_ray([], lambda index, what: None, address=address)
