"""The settings of a configuration, however deep they lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting by its path, such as `recipe.seed`, in the configuration's order."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def short_name(path: str) -> str:
    """What people call a setting: `seed` for `recipe.seed`."""
    return path.rpartition(".")[2]
