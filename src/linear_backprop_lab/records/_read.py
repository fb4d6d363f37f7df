"""A folder of records, each read once: those that are complete, those that are not yet, those that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ._damage import check
from ._errors import RunError
from ._run import Run, folders_below, is_set_aside, run_in


class ReadRun(Run):
    """A run as it was when it was first looked at: every file is read once, and nothing is written."""

    @cached_property
    def record(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  # Reads as the property does.
        """The closing record; of an unfinished run `status` "unfinished" and how many `epochs` it has."""
        return super().record if self.is_complete else {"status": "unfinished", "epochs": len(self.metrics)}

    @cached_property
    def environment(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  # Reads as the property does.
        """Where the run was made."""
        return super().environment

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]  # Reads as the property does.
        """The lines of `metrics.jsonl`."""
        return super().metrics


@dataclass(frozen=True)
class Records:
    """What lies below a folder, in the order of the folders' names.

    Attributes:
        complete: Runs with a closing record.
        unfinished: Runs without, that have at least a line of metrics.
        left_out: What cannot be read or was changed, as (folder, what is wrong with it).
    """

    complete: tuple[ReadRun, ...]
    unfinished: tuple[ReadRun, ...]
    left_out: tuple[tuple[Path, str], ...]


def read(root: Path) -> Records:
    """Every run below `root`, but those set aside."""
    complete: list[ReadRun] = []
    unfinished: list[ReadRun] = []
    left_out: list[tuple[Path, str]] = []
    for folder in sorted(each for each in folders_below(root) if not is_set_aside(each)):
        try:
            run = ReadRun(root, run_in(folder).config)
            check(run)
            if run.is_complete:
                complete.append(run)
            elif run.metrics:
                unfinished.append(run)
        except RunError as error:
            left_out.append((folder, error.problem))
    return Records(tuple(complete), tuple(unfinished), tuple(left_out))
