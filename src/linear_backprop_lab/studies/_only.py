"""The part of an experiment's runs that has certain settings: `--only KEY=VALUE` of the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from linear_backprop_lab.records import flat, short_name

from ._job import Job


class UnknownSettingError(ValueError):
    """A setting that no run has; the message lists what there is."""


@dataclass(frozen=True)
class Only:
    """One setting that runs are chosen by.

    Attributes:
        key: Of a run's configuration, at any depth: `batch_norm` is of its model, `learning_rate` of its recipe.
        value: As JSON has it, or a text.
    """

    key: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> Only:
        """From `KEY=VALUE`; a value that is no JSON is a text: `batch_norm=true`, `rule=Linear()`.

        Raises:
            UnknownSettingError: It has another form.
        """
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UnknownSettingError(f"{text!r} is no setting; give KEY=VALUE, such as batch_norm=true")
        try:
            return cls(key, json.loads(value))
        except ValueError:
            return cls(key, value)

    def __str__(self) -> str:
        """As it is given, a text in quotation marks."""
        return f"{self.key}={json.dumps(self.value)}"

    def holds(self, job: Job) -> bool:
        """Whether the run has the setting; 1 is equal to 1.0, and not to true."""
        wanted = (self.key, isinstance(self.value, bool), self.value)
        return wanted in ((key, isinstance(value, bool), value) for key, value in _settings(job))


def runs_with(jobs: Iterable[Job], only: Sequence[Only]) -> list[Job]:
    """The jobs whose configuration has every one of the settings."""
    return [job for job in jobs if all(setting.holds(job) for setting in only)]


def check_settings(jobs: Sequence[Job], only: Sequence[Only]) -> None:
    """Check that there are runs with all the settings.

    Raises:
        UnknownSettingError: No run has the key, or the value, or all of the settings together.
    """
    values: dict[str, dict[str, None]] = {}
    for job in jobs:
        for key, value in _settings(job):
            values.setdefault(key, {})[json.dumps(value)] = None
    for setting in only:
        if setting.key not in values:
            raise UnknownSettingError(f"no run has a setting {setting.key!r}; there are {', '.join(values)}")
        if not runs_with(jobs, [setting]):
            raise UnknownSettingError(f"no run has {setting}; there are {', '.join(values[setting.key])}")
    if not runs_with(jobs, only):
        raise UnknownSettingError(f"no run has all of {', '.join(map(str, only))}")


def _settings(job: Job) -> Iterator[tuple[str, Any]]:
    return ((short_name(path), value) for path, value in flat(job.run.config).items())
