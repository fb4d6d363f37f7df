"""The same sweep on a Ray cluster: one task a run; Ray decides where and when."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from linear_backprop_lab.studies import Job

from ._attempt import Outcome, attempt, record_failure, summary
from ._errors import EngineError
from ._local import RUNS_A_GPU, Tell, throttled

_RETRIES = 3
_SECONDS_BETWEEN_LOOKS = 0.2


def run_on_ray(jobs: Sequence[Job], tell: Tell, address: str | None = None, gpus_per_run: float | None = None) -> None:
    """Make the runs as tasks of a Ray cluster, each on one core and a part of a GPU.

    A task whose process or machine died is tried again three times and goes on from its checkpoint. All
    machines need this package, the data at the same path, and the folder of records at the same path on
    a file system they share.

    Args:
        jobs: What to make.
        tell: Called with what happens.
        address: Of the cluster, `host:port`, or `auto` for the one on this machine; None starts one here
            that ends with the sweep.
        gpus_per_run: How much of a GPU a run takes; None takes a quarter where the cluster has GPUs.

    Raises:
        EngineError: Ray is not installed, or no cluster answers.
    """
    ray, queue_type = _connect(address)
    try:
        if gpus_per_run is None:
            gpus_per_run = 1 / RUNS_A_GPU if ray.cluster_resources().get("GPU") else 0
        steps = queue_type(actor_options={"num_cpus": 0})
        remote = ray.remote(num_cpus=1, num_gpus=gpus_per_run, max_retries=_RETRIES)(_task)
        tasks = {remote.remote(job, partial(_put, steps, index)): index for index, job in enumerate(jobs)}
        while tasks:
            ended, _ = ray.wait(list(tasks), timeout=_SECONDS_BETWEEN_LOOKS)
            for index, step in steps.get_nowait_batch(steps.qsize()):
                tell(index, step)
            for task in ended:
                index = tasks.pop(task)
                tell(index, _outcome(jobs[index], partial(ray.get, task), ray.exceptions.RayError))
    finally:
        ray.shutdown()


def _connect(address: str | None) -> tuple[Any, Any]:
    """Ray, connected, and its queue."""
    # All are read as Ray is imported. The last has a cluster that is started here stay on the loopback.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        from ray.util.queue import Queue
    except ImportError as error:
        raise EngineError(f"Ray cannot be imported ({error}); pip install 'linear-backprop[ray]'") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        options["include_dashboard"] = False
    try:
        _check_listening(address)
        ray.init(address=address, **options)
    except OSError as error:
        raise EngineError(f"no Ray cluster answers at {address} ({error}); start one: ray start --head") from error
    return ray, Queue


def _check_listening(address: str | None) -> None:
    """Whether anything listens at `host:port`: Ray would try for ten minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _task(job: Job, send: Callable[[int], object]) -> Outcome:
    return attempt(job, throttled(send))


def _put(queue: Any, index: int, step: int) -> None:
    queue.put_nowait((index, step))


def _outcome(job: Job, get: Callable[[], Outcome], ray_error: type[Exception]) -> Outcome:
    """How a task ended; an end that Ray reports, and a record that this machine does not see, are failures."""
    try:
        outcome = get()
    except ray_error as error:
        outcome = Outcome("failed", summary(error))
        record_failure(job.run, outcome.error)
        return outcome
    if outcome.state == "done" and not job.run.is_complete:
        return Outcome("failed", f"made on a machine whose {job.run.folder} is not this one's; copy it from there")
    return outcome
