"""What every benchmark shares: alternate the candidates, take medians, say on what it was measured."""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from linear_backprop_lab.records import environment

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
    """The median seconds of each candidate over `rounds` rounds, all candidates taking turns in each."""
    for candidate in candidates.values():
        candidate()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            times[name].append(candidate())
    return {name: statistics.median(taken) for name, taken in times.items()}


def where_and_when() -> str:
    """One line: hardware, versions, date."""
    env = environment()
    machine = env["device"] if env["device"] != "cpu" else f"{env['processor']}, {env['threads']} threads"
    date = datetime.datetime.now(datetime.UTC).date()
    return f"{machine}; torch {env['torch']}, Python {env['python']}; commit {env['commit']}; {date}"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
