"""Jobs on the terminal: what there is to do, and doing it with a bar and the time left."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from linear_backprop_lab.experiments import Job


def plan(jobs: Sequence[Job]) -> Table:
    """What will be run, and what is complete already, a run a row."""
    table = Table("experiment", "run", "record", "state", box=None, header_style="bold")
    for job in jobs:
        table.add_row(job.run.config["experiment"], job.label, job.run.key, _state(job))
    return table


def perform(jobs: Sequence[Job], console: Console) -> None:
    """Make every run that is not complete, one after another."""
    pending = [job for job in jobs if not job.run.is_complete]
    columns = (
        TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        for number, job in enumerate(pending, start=1):
            task = progress.add_task(f"{number} of {len(pending)}: {job.label}", total=job.steps)
            job.perform(lambda step, task=task: progress.update(task, completed=step))
            progress.remove_task(task)
            console.print(f"[green]done[/] {number} of {len(pending)}: {job.label}", highlight=False)


def _state(job: Job) -> str:
    if job.run.is_complete:
        return "[green]complete[/]"
    return "[yellow]begun[/]" if job.run.folder.exists() else "to run"
