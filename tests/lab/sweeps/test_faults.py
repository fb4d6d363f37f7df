"""What befalls a sweep: damaged records, a full disk, divergence, errors, no memory, dead processes."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from lab.nursery import nursery_of
from lab.sweeps.tiny import FAULTS, STEPS, make, sweep, tiny_job, without_time

from linear_backprop_lab.records import Run, damage, is_locked, listing, lock
from linear_backprop_lab.studies import Job
from linear_backprop_lab.sweeps import Outcome, attempt, run_here, run_in_processes

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the faults are made with POSIX means")


class Interrupted(BaseException):
    """What a kill is, to a run in this process."""


def make_until(job: Job, step: int) -> None:
    """Leave the run as a kill at that step would."""

    def stop(done: int) -> None:
        if done == step:
            raise Interrupted

    with pytest.raises(Interrupted):
        attempt(job, stop)


@pytest.fixture(scope="module")
def assert_as_undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Run], None]:
    """Compare a run with one that nothing befell, which is made once for each seed."""
    root = tmp_path_factory.mktemp("undisturbed")

    def compare(run: Run) -> None:
        undisturbed = tiny_job(root, run.config["seed"])
        make(undisturbed)
        assert damage(run) is None
        assert without_time(run) == without_time(undisturbed.run)
        assert run.record | {"seconds": 0} == undisturbed.run.record | {"seconds": 0}

    return compare


def cut(content: bytes) -> bytes:
    return content[: 2 * len(content) // 3]


def flip(content: bytes) -> bytes:
    """Another digit in the middle, so that a text still reads well."""
    middle = next(i for i in range(len(content) // 2, len(content)) if content[i : i + 1].isdigit())
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage_it", [cut, flip, empty])
@pytest.mark.parametrize(
    ("name", "complete"),
    [
        ("checkpoint.pt", False),
        ("metrics.jsonl", False),
        ("config.json", False),
        ("metrics.jsonl", True),
        ("config.json", True),
        ("environment.json", True),
        ("record.json", True),
        ("SHA256SUMS", True),
    ],
)
def test_damage_is_said_set_aside_and_redone(
    tmp_path: Path, assert_as_undisturbed, name: str, complete: bool, damage_it: Callable[[bytes], bytes]
) -> None:
    job = tiny_job(tmp_path, 0)
    if complete:
        make(job)
    else:
        make_until(job, STEPS - 1)
        assert job.run.resume() is not None
    path = job.run.folder / name
    path.write_bytes(damage_it(path.read_bytes()))
    (listed,) = listing(tmp_path)
    assert listed.state == "broken" and (name in listed.detail or complete)
    kept = {file.name: file.read_bytes() for file in job.run.folder.iterdir()}

    outcome = attempt(job, lambda step: None)
    assert outcome.state == "done"
    assert outcome.set_aside.endswith(f"; set aside as {job.run.key}.broken-1")
    aside = job.run.folder.with_name(f"{job.run.key}.broken-1")
    assert {file.name: file.read_bytes() for file in aside.iterdir()} == kept
    assert_as_undisturbed(job.run)
    states = {listed.folder.name: listed.state for listed in listing(tmp_path)}
    assert states == {job.run.key: "complete", aside.name: "set aside"}


def test_a_second_damage_is_set_aside_beside_the_first(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, 0)
    for _ in range(2):
        make(job)
        (job.run.folder / "metrics.jsonl").write_text("")
    make(job)
    names = {path.name for path in job.run.folder.parent.iterdir()}
    assert names == {job.run.key, f"{job.run.key}.broken-1", f"{job.run.key}.broken-2"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB; a run needs more than half of it for each checkpoint."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(file: Path) -> None:
    with suppress(OSError), file.open("wb", buffering=0) as unbuffered:
        while unbuffered.write(b"x" * 1024):
            pass


def test_a_full_disk_is_an_error_and_room_for_more_heals_it(small_disk: Path, assert_as_undisturbed) -> None:
    job = tiny_job(small_disk, 0)
    filler = small_disk / "filler"
    outcome = attempt(job, lambda step: fill(filler) if step == STEPS // 2 else None)
    assert outcome.state == "failed"
    assert "cannot be written (No space left on device); make room there and run again, it goes on" in outcome.error
    assert damage(job.run) is None and not list(small_disk.rglob("*.tmp"))
    reached = job.run.resume()["epoch"]
    assert reached >= 1
    filler.unlink()
    steps = []
    assert attempt(job, steps.append).state == "done"
    assert min(steps) > reached
    assert_as_undisturbed(job.run)


def test_a_file_size_limit_is_an_error_and_lifting_it_heals_it(tmp_path: Path, assert_as_undisturbed) -> None:
    job = tiny_job(tmp_path, 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        outcome = attempt(job, lambda step: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.state == "failed" and "checkpoint.pt cannot be written (File too large)" in outcome.error
    assert damage(job.run) is None
    assert job.run.failure == outcome.error
    make(job)
    assert_as_undisturbed(job.run)


def test_divergence_is_a_result(tmp_path: Path) -> None:
    assert sweep(str(tmp_path), 1, "nan") == 0
    (listed,) = listing(tmp_path)
    assert listed.state == "diverged" and listed.detail == "epoch 1"
    assert damage(tiny_job(tmp_path, 0, "nan").run) is None


def outcomes(jobs: list[Job], engine) -> list[Outcome]:
    found = {}
    engine(jobs, lambda index, told: found.update({index: told}))
    return [found[index] for index in range(len(jobs))]


def test_an_error_fails_its_run_alone_and_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [tiny_job(tmp_path, 0, "error"), tiny_job(tmp_path, 0)]
    failed, done = outcomes(jobs, run_here)
    assert failed == Outcome("failed", "ZeroDivisionError: no such [thing]") and done == Outcome("done")
    said = json.loads((jobs[0].run.folder / "failure.json").read_text())
    assert said["error"] == failed.error
    assert 'raise ZeroDivisionError("no such [thing]")' in "".join(said["traceback"])
    assert {listed.detail for listed in listing(tmp_path)} == {failed.error, ""}
    monkeypatch.delitem(FAULTS, "error")
    make(jobs[0])
    assert jobs[0].run.failure is None


def test_no_memory_and_dead_processes_fail_their_runs_alone(tmp_path: Path, assert_as_undisturbed) -> None:
    jobs = [tiny_job(tmp_path, seed, fault) for seed, fault in enumerate(("memory", "killed", "", "", ""))]
    memory, killed, *others = outcomes(jobs, partial(run_in_processes, workers=2))
    assert memory.state == "failed" and "can't allocate memory" in memory.error
    assert killed == Outcome("failed", "its process was ended from outside (SIGKILL; out of memory?)")
    assert others == [Outcome("done")] * 3
    assert [job.run.failure for job in jobs] == [memory.error, killed.error, None, None, None]
    assert not any(is_locked(job.run) for job in jobs)
    for job in jobs[2:]:
        assert_as_undisturbed(job.run)


def begun(job: Job) -> bool:
    return (job.run.folder / "environment.json").exists()


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """It is killed as soon as both make a run; they give their locks back within a step or two."""
    jobs = [tiny_job(tmp_path, seed, "slow") for seed in range(2)]
    with nursery_of("lab.sweeps.tiny:sweep") as nursery:
        nursery.kill(tmp_path, 2, "slow", 2, when=lambda: all(begun(job) for job in jobs), delay=0.1)
    deadline = time.monotonic() + 180
    while any(is_locked(job.run) for job in jobs):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {listed.state for listed in listing(tmp_path)} == {"unfinished"}


def test_a_lock_is_given_back_by_a_process_that_ends(tmp_path: Path) -> None:
    run = tiny_job(tmp_path, 0).run
    hold = "import sys; from lab.sweeps.tiny import *; from linear_backprop_lab.records import lock\n"
    hold += f"with lock(tiny_job(Path({str(tmp_path)!r}), 0).run): print(flush=True); sys.stdin.read()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold], env=environment, **pipes) as process:
        process.stdout.readline()
        assert is_locked(run)
        assert attempt(tiny_job(tmp_path, 0), lambda step: None) == Outcome("busy")
        process.kill()
    assert not is_locked(run)
    with lock(run):
        assert is_locked(run)
    assert not list(tmp_path.rglob("*.lock"))
