"""A sweep: every run of a list made once, by whichever engine, with bars on the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from linear_backprop_lab.records import damage, is_locked
from linear_backprop_lab.studies import Job

from ._attempt import Outcome
from ._display import Display
from ._engine import Engine
from ._names import names_of

_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Sweep:
    """The runs that are asked for, and what of them is there already.

    Attributes:
        jobs: All of them.
        states: Of each: `complete`, `broken`, `begun` or `to run`.
    """

    jobs: tuple[Job, ...]
    states: tuple[str, ...]

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> Sweep:
        """Look at the records of `jobs`."""
        return cls(tuple(jobs), tuple(_state(job) for job in jobs))

    @property
    def pending(self) -> list[Job]:
        """The jobs whose run is not complete, or whose record is broken."""
        return [job for job, state in zip(self.jobs, self.states, strict=True) if state != "complete"]

    def plan(self) -> Table:
        """What will be run and what is complete already, a run a row."""
        names = names_of(self.jobs)
        table = Table("run", "record", "state", box=None, header_style="bold")
        for job, state in zip(self.jobs, self.states, strict=True):
            table.add_row(escape(names[job.run.key]), job.run.key, _colored(state))
        return table

    def perform(self, engine: Engine, console: Console) -> int:
        """Make every run that is pending, and wait for those that another process makes.

        Returns:
            How many failed.
        """
        pending = self.pending
        with Display(pending, names_of(self.jobs), console) as display:
            while pending:
                busy = _round(engine, pending, display)
                while busy and all(is_locked(job.run) for job in busy):
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
                pending = busy
        return display.failed


def _round(engine: Engine, jobs: list[Job], display: Display) -> list[Job]:
    """One go of the engine over the jobs; returns those that another process makes."""
    busy: list[Job] = []

    def tell(index: int, told: int | Outcome) -> None:
        display.show(jobs[index], told)
        if isinstance(told, Outcome) and told.state == "busy":
            busy.append(jobs[index])

    engine(jobs, tell)
    return busy


def _state(job: Job) -> str:
    if is_locked(job.run):
        return "begun"
    if damage(job.run) is not None:
        return "broken"
    if job.run.is_complete:
        return "complete"
    return "begun" if job.run.folder.exists() else "to run"


def _colored(state: str) -> str:
    color = {"complete": "green", "broken": "red", "begun": "yellow"}.get(state)
    return f"[{color}]{state}[/]" if color else state
