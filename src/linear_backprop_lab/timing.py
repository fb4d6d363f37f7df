"""Timing candidates against each other: all take turns in one process, and medians are compared."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch

Timed = Callable[[], float]


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """Seconds that one call of `work` takes, over `repeats` calls in a row."""
    _wait()
    begin = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait()
    return (time.perf_counter() - begin) / repeats


def medians(candidates: Mapping[str, Timed], rounds: int) -> dict[str, float]:
    """The median seconds of each candidate over `rounds` rounds, all candidates taking turns in each.

    They do so in an order drawn for each round, the same in every process: what one leaves in the caches is not always
    the same one's to pay for.
    """
    for candidate in candidates.values():
        candidate()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    drawn = random.Random(0)
    for _ in range(rounds):
        for name in drawn.sample(list(candidates), len(candidates)):
            times[name].append(candidates[name]())
    return {name: statistics.median(taken) for name, taken in times.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
