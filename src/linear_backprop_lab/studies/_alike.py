"""Runs that belong together: those whose configurations differ in some settings alone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from linear_backprop_lab.records import Run, flat

R = TypeVar("R", bound=Run)


def alike(runs: Iterable[R], *varied: str) -> list[list[R]]:
    """The runs in groups, each in the order they came in.

    Args:
        runs: Any.
        varied: What may differ within a group, such as `rule` or `recipe.seed`.
    """
    groups: dict[str, list[R]] = defaultdict(list)
    for run in runs:
        shared = {path: value for path, value in flat(run.config).items() if path not in varied}
        groups[json.dumps(shared, sort_keys=True)].append(run)
    return list(groups.values())
