"""The runs of modules, counted within one forward pass of a converted model, in each thread for itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

Counts = dict[object, int]


class _UnderWay(threading.local):
    """The forward passes that the thread is in, by the conversion they are of: the runs of each module so far."""

    def __init__(self) -> None:
        self.passes: dict[object, Counts] = {}


_under_way = _UnderWay()


def in_one_pass(conversion: object, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A function's result, whatever it runs being of one forward pass: the one under way, or a new one.

    Args:
        conversion: What the modules that are counted belong to.
        function: Runs the model, or a part of it.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """
    passes = _under_way.passes
    if conversion in passes:
        return function(*args, **kwargs)
    passes[conversion] = {}
    try:
        return function(*args, **kwargs)
    finally:
        del passes[conversion]


def next_run(conversion: object, module: object) -> int:
    """The number of a module's run that begins now, from 0; outside any pass it is a pass by itself."""
    counts = _under_way.passes.get(conversion)
    if counts is None:
        return 0
    run = counts.get(module, 0)
    counts[module] = run + 1
    return run


def runs_so_far(conversion: object) -> Counts:
    """How often each module ran in the pass under way."""
    return dict(_under_way.passes.get(conversion, {}))


def snapshot() -> dict[object, Counts]:
    """The passes as they are now, to be run from again."""
    return {conversion: dict(counts) for conversion, counts in _under_way.passes.items()}


@contextmanager
def running_from(passes: dict[object, Counts]) -> Generator[None]:
    """A context in which runs are counted from a snapshot, which stays as it is."""
    before = _under_way.passes
    _under_way.passes = {conversion: dict(counts) for conversion, counts in passes.items()}
    try:
        yield
    finally:
        _under_way.passes = before
