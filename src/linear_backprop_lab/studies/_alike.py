"""Runs that belong together: those whose configurations differ in some settings alone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from linear_backprop_lab.records import Run

R = TypeVar("R", bound=Run)


def alike(runs: Iterable[R], *varied: str) -> list[list[R]]:
    """The runs in groups, each in the order they came in.

    Args:
        runs: Any.
        varied: What may differ within a group, such as `rule` or `recipe.seed`.
    """
    groups: dict[str, list[R]] = defaultdict(list)
    for run in runs:
        groups[json.dumps(_without(run.config, varied), sort_keys=True)].append(run)
    return list(groups.values())


def _without(config: Mapping[str, Any], varied: Iterable[str], prefix: str = "") -> dict[str, Any]:
    return {
        key: _without(value, varied, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in config.items()
        if f"{prefix}{key}" not in varied
    }
