"""Engines on this machine: one run after another in this process, or several side by side in their own."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

import torch

from linear_backprop_lab.studies import Job

from ._attempt import Outcome, attempt, record_failure

Tell = Callable[[int, "int | Outcome"], object]
"""Called with a job's index and the steps it has done, then with how it ended."""

RUNS_A_GPU = 4
_MOST_ON_CPU = 8  # Each holds the images and a model of its own.
_SECONDS_BETWEEN_STEPS = 0.1

# Spawned, since a CUDA context does not survive a fork.
_processes = get_context("spawn")


def run_locally(jobs: Sequence[Job], tell: Tell, workers: int | None = None) -> None:
    """Make the runs in this process, or in several where more than one is to go on at a time.

    Args:
        jobs: What to make.
        tell: Called with what happens.
        workers: How many side by side; None takes four a GPU, and without one as many as there are cores, at
            most eight.
    """
    at_a_time = side_by_side(len(jobs), workers)
    if at_a_time <= 1:
        run_here(jobs, tell)
    else:
        run_in_processes(jobs, tell, at_a_time)


def side_by_side(count: int, workers: int | None = None) -> int:
    """How many of `count` runs go on at a time in `run_locally`."""
    most = RUNS_A_GPU * torch.cuda.device_count() if torch.cuda.is_available() else _MOST_ON_CPU
    return min(count, min(most, cores()) if workers is None else workers)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_here(jobs: Sequence[Job], tell: Tell) -> None:
    """Make the runs one after another in this process, with all its threads."""
    for index, job in enumerate(jobs):
        tell(index, attempt(job, lambda step, index=index: tell(index, step)))


def run_in_processes(jobs: Sequence[Job], tell: Tell, workers: int) -> None:
    """Make the runs in `workers` processes, which share the cores, and the GPUs in turn.

    A process that dies (killed for its memory, say) fails its run alone; another takes its place. After a
    run that failed in whichever way the process is replaced, too: what it still held is given back.
    """
    threads = max(1, cores() // workers)
    waiting = deque(range(len(jobs)))
    pool: list[_Worker] = []
    try:
        while waiting or pool:
            while waiting and len(pool) < workers:
                free = min(set(range(workers)) - {worker.place for worker in pool})
                pool.append(_Worker(free, threads))
                pool[-1].give(waiting.popleft(), jobs)
            for connection in wait([worker.connection for worker in pool]):
                worker = next(worker for worker in pool if worker.connection is connection)
                told = worker.hear()
                if isinstance(told, Outcome) and worker.died:
                    record_failure(jobs[worker.index].run, told.error)
                tell(worker.index, told)
                if not isinstance(told, Outcome):
                    continue
                if told.state == "failed" or not waiting:
                    pool.remove(worker)
                    worker.stop()
                else:
                    worker.give(waiting.popleft(), jobs)
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    """A process that makes the runs it is given.

    Attributes:
        place: Which of the processes side by side this is; decides the GPU.
        index: The job it has.
        died: Whether the process ended by itself.
    """

    def __init__(self, place: int, threads: int) -> None:
        self.place, self.index, self.died = place, -1, False
        self.connection, theirs = _processes.Pipe()
        self._process = _processes.Process(target=_serve, args=(theirs, place, threads), daemon=True)
        with _interrupts_held():
            self._process.start()
        theirs.close()

    def give(self, index: int, jobs: Sequence[Job]) -> None:
        """Have it make the run of one job."""
        self.index = index
        try:
            self.connection.send(jobs[index])
        except BrokenPipeError:
            return  # It died; `hear` says so.

    def hear(self) -> int | Outcome:
        """What it has to say of its job: steps done, or how it ended."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            self.died = True
            self._process.join()
            return Outcome("failed", f"its process was ended from outside ({_ending(self._process.exitcode)})")

    def stop(self) -> None:
        """End the process, in the middle of a run if need be: a record survives that."""
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection[int | Outcome, Job], place: int, threads: int) -> None:
    """What a worker process does: make the runs it is given, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
    try:
        while True:
            job = connection.recv()
            connection.send(attempt(job, throttled(connection.send)))
    except (EOFError, ConnectionError):
        return


def throttled(send: Callable[[int], object]) -> Callable[[int], None]:
    """`send`, called ten times a second at most; ends the process where nobody listens any more."""
    sent_at = 0.0

    def on_step(step: int) -> None:
        nonlocal sent_at
        if time.monotonic() - sent_at < _SECONDS_BETWEEN_STEPS:
            return
        sent_at = time.monotonic()
        try:
            send(step)
        except ConnectionError:
            # Not an error of the run, and so none that an attempt would catch.
            raise SystemExit from None

    return on_step


@contextmanager
def _interrupts_held() -> Generator[None]:
    """A process started meanwhile never gets Ctrl-C, this one gets it afterwards: it ends the others."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ending(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"{name}; out of memory?" if name == "SIGKILL" else name
