"""What lies in a folder of records, a run a line, damaged and unfinished ones included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ._damage import check
from ._errors import RunError
from ._flat import flat, short_name
from ._lock import is_locked
from ._run import Run, folders_below, is_set_aside, run_in


@dataclass(frozen=True)
class Listed:
    """One folder of a run.

    Attributes:
        folder: Where it lies.
        experiment: As in its configuration, or as its path says where that cannot be read.
        settings: What tells it from the experiment's other runs, in a few words.
        state: `complete`, `diverged`, `running`, `unfinished`, `failed`, `broken` or `set aside`.
        detail: How far it is, or what is wrong with it; empty for a complete run.
        best_accuracy: The best top-1 test accuracy of its epochs, in [0, 1]; None where it has none.
        seconds: What its epochs took; None where that is not recorded.
    """

    folder: Path
    experiment: str
    settings: str
    state: str
    detail: str = ""
    best_accuracy: float | None = None
    seconds: float | None = None


def listing(root: Path) -> list[Listed]:
    """Every folder of a run below `root`, by experiment, then by settings."""
    folders = folders_below(root)
    words = _settings(folders)
    listed = [_listed(folder, words.get(folder, "")) for folder in folders]
    return sorted(listed, key=lambda run: (run.experiment, run.settings, run.folder.name))


def _listed(folder: Path, settings: str) -> Listed:
    known = partial(Listed, folder, folder.parent.name, settings)
    if is_set_aside(folder):
        return known("set aside")
    try:
        run = run_in(folder)
        state, detail = _state(run)
        accuracies = [line["test_accuracy"] for line in run.metrics if line.get("test_accuracy") is not None]
        return known(state, detail, max(accuracies, default=None), _seconds(run))
    except RunError as error:
        return known("broken", error.problem)


def _state(run: Run) -> tuple[str, str]:
    """The state and the detail.

    Raises:
        RunError: It is damaged, and no process makes it.
    """
    if is_locked(run):
        return "running", _progress(run)
    check(run)
    if run.is_complete:
        return ("diverged", _progress(run)) if run.record.get("status") == "diverged" else ("complete", "")
    if (failure := run.failure) is not None:
        return "failed", failure
    return "unfinished", _progress(run)


def _progress(run: Run) -> str:
    last = run.metrics[-1:]
    return next((f"{name} {line[name]}" for line in last for name in ("epoch", "step") if name in line), "")


def _seconds(run: Run) -> float | None:
    if run.is_complete:
        return run.record.get("seconds")
    taken = [line["seconds"] for line in run.metrics if "seconds" in line]
    return sum(taken) if taken else None


def _settings(folders: Iterable[Path]) -> dict[Path, str]:
    """Of every folder whose configuration can be read, the settings in which its experiment's runs differ."""
    experiments: dict[str, dict[Path, dict[str, Any]]] = defaultdict(dict)
    for folder in folders:
        try:
            experiments[folder.parent.name][folder] = flat(run_in(folder).config)
        except RunError:
            continue
    return {folder: words for flats in experiments.values() for folder, words in _differences(flats).items()}


def _differences(flats: dict[Path, dict[str, Any]]) -> dict[Path, str]:
    values: dict[str, set[str]] = defaultdict(set)
    for settings in flats.values():
        for name, value in settings.items():
            values[name].add(repr(value))
    differing = [name for name, found in values.items() if len(found) > 1 or name == "rule"]
    return {folder: _words(settings, differing) for folder, settings in flats.items()}


def _words(settings: dict[str, Any], names: Sequence[str]) -> str:
    given = [(short_name(name), settings[name]) for name in names if name in settings]
    return ", ".join(str(value) if name == "rule" else f"{name} {value}" for name, value in given)
