"""The settings in which runs differ, in a few words."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

Key = TypeVar("Key", bound=Hashable)

# What is compared: always said, first and without its name.
_COMPARED = ("rule", "method")


def differences(configs: Mapping[Key, Mapping[str, Any]]) -> dict[Key, str]:
    """Of each configuration its rule, and the settings that are not the same in all of them."""
    flats = {key: _flat(config) for key, config in configs.items()}
    values: dict[str, set[str]] = {}
    for flat in flats.values():
        for name, value in flat.items():
            values.setdefault(name, set()).add(repr(value))
    differing = [name for name, found in values.items() if len(found) > 1 and name not in _COMPARED]
    return {key: _words(flat, differing) for key, flat in flats.items()}


def _words(flat: Mapping[str, Any], differing: list[str]) -> str:
    compared = [str(flat[name]) for name in _COMPARED if name in flat]
    return ", ".join(compared + [f"{name.rpartition('.')[2]} {flat[name]}" for name in differing if name in flat])


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
