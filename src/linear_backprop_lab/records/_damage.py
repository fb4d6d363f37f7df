"""Damaged records: found, said, set aside. Nothing is deleted."""

from __future__ import annotations

import itertools
from pathlib import Path

from ._errors import RunError
from ._files import SUMS, check_sums
from ._run import Run, run_in


def check(run: Run) -> None:
    """Check the files of the run, if there are any.

    A complete run is compared with its checksums and must have the form of a record; of one without them, made before
    there were any, its arrays are read, too.
    Of an unfinished run, everything that going on would build on is read.

    Raises:
        RunError: They are damaged.
    """
    if not (run.folder / "config.json").exists() and not _has_content(run):
        return
    run_in(run.folder)
    if run.is_complete and (run.folder / SUMS).exists():
        check_sums(run.folder)
        _read_record(run)
    else:
        _read_everything(run)


def damage(run: Run) -> str | None:
    """What is wrong with the files of the run, in words; None where they are whole or there are none."""
    try:
        check(run)
    except RunError as error:
        return error.problem
    return None


def is_whole(run: Run) -> bool:
    """Whether the run is complete and undamaged: its record can be used, and it is not made again."""
    return run.is_complete and damage(run) is None


def set_aside(run: Run) -> Path:
    """Rename the run's folder to `<hash>.broken-<n>`, the first n that is free; the run is not begun then."""
    names = (run.folder.with_name(f"{run.key}.broken-{n}") for n in itertools.count(1))
    target = next(path for path in names if not path.exists())
    return run.folder.rename(target)


def _has_content(run: Run) -> bool:
    """Whether anything was recorded: a run killed as it began leaves an empty folder."""
    return any((run.folder / name).exists() for name in ("metrics.jsonl", "checkpoint.pt", "record.json"))


def _read_record(run: Run) -> None:
    _ = run.metrics, run.failure
    if run.is_complete:
        _ = run.record, run.environment


def _read_everything(run: Run) -> None:
    run.resume()
    _read_record(run)
    if run.is_complete:
        for path in run.folder.glob("[!.]*.npz"):
            run.arrays(path.stem)
