"""Copies of a converted module: deep copies and pickles carry the conversion along, shallow ones are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from torch import nn

from .._errors import ConversionError


class Travelling:
    """An entry of a converted module on its way into a copy: it arrives as the copy's own, unless the copy is shallow.

    A shallow copy would run the module that it was made from, with that one's mode and attributes.

    Args:
        entry: What the module has.
    """

    def __init__(self, entry: Callable[..., Any]) -> None:
        self.entry = entry

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: see above.

        Raises:
            ConversionError: Always.
        """
        raise ConversionError(
            "this is a shallow copy (copy.copy) of a converted module, which has no conversion of its own: use "
            "copy.deepcopy, or copy the module first and convert the copy"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.entry, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.entry,)


def state_to_travel(module: nn.Module, names: Iterable[str]) -> dict[str, Any]:
    """What a copy of a converted module is made of, the conversion's entries of those names travelling."""
    state = nn.Module.__getstate__(module)
    return {**state, **{name: Travelling(state[name]) for name in names if name in state}}


def has_plain_state(cls: type[nn.Module]) -> bool:
    """True if modules of a class are copied by their attributes alone."""
    return cls.__getstate__ is nn.Module.__getstate__


def _arrived(entry: Callable[..., Any]) -> Callable[..., Any]:
    return entry
