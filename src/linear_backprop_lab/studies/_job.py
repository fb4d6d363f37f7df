"""A run that can be made: what the command line lists, counts and starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from linear_backprop_lab.records import Run

OnStep = Callable[[int], object]


@dataclass(frozen=True)
class Job:
    """One run and the way to make it.

    Attributes:
        run: Where it is recorded; complete, unfinished or not begun.
        label: What is run, in a few words.
        steps: The most steps it takes, for a progress bar.
        perform: Makes the run, resuming one that was killed where it can; calls its argument with the
            number of steps done, now and then. Can be pickled, and is small.
        estimate: Seconds that `perform` takes at most, by timing a step or two here on one thread; None if unknown.
        shared: Whether the processes of a process group may make it together, each calling `perform`.
    """

    run: Run
    label: str
    steps: int
    perform: Callable[[OnStep], None]
    estimate: Callable[[], float] | None = None
    shared: bool = False
