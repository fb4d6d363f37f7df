"""A sweep on the terminal: a bar a run under way, one over all, and a line for each that ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from linear_backprop_lab.studies import Job

from ._attempt import Outcome

_COLUMNS = (
    TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    BarColumn(bar_width=16),
    TaskProgressColumn(),
    TimeRemainingColumn(),
    TextColumn("left"),
)


class Display:
    """Shows what an engine tells of each job.

    Args:
        jobs: What is made.
        names: Of each, by its run's key.
        console: Where.

    Attributes:
        failed: How many runs failed.
    """

    def __init__(self, jobs: Sequence[Job], names: Mapping[str, str], console: Console) -> None:
        self.failed = 0
        self._names = {key: escape(name) for key, name in names.items()}
        self._console, self._runs, self._ended = console, len(jobs), 0
        self._progress = Progress(*_COLUMNS, console=console, transient=True, expand=True)
        self._all = self._progress.add_task(self._title(), total=sum(job.steps for job in jobs))
        self._bars: dict[str, TaskID] = {}
        self._steps: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, job: Job, told: int | Outcome) -> None:
        """Move the job's bar, or take it away and say how the job ended."""
        if isinstance(told, Outcome):
            self._end(job, told)
        else:
            self._move(job, told)

    def _move(self, job: Job, steps: int) -> None:
        if job.run.key not in self._bars:
            self._bars[job.run.key] = self._progress.add_task(self._names[job.run.key], total=job.steps)
        self._progress.update(self._bars[job.run.key], completed=steps)
        self._steps[job.run.key] = steps
        self._progress.update(self._all, completed=sum(self._steps.values()))

    def _end(self, job: Job, outcome: Outcome) -> None:
        name = self._names[job.run.key]
        if job.run.key in self._bars:
            self._progress.remove_task(self._bars.pop(job.run.key))
        if outcome.set_aside:
            self._say(f"[yellow]broken[/] {name}: {escape(outcome.set_aside)}")
        if outcome.state == "busy":
            self._say(f"[yellow]made by another process[/] {name}: waiting for it")
            return
        self._ended += 1
        self._steps[job.run.key] = job.steps
        self._progress.update(self._all, completed=sum(self._steps.values()), description=self._title())
        if outcome.state == "failed":
            self.failed += 1
            self._say(f"[red]failed[/] {name}: {escape(outcome.error)}")
        else:
            self._say(f"[green]done[/] {self._ended} of {self._runs}: {name}")

    def _title(self) -> str:
        return f"{self._ended} of {self._runs} runs ended"

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
