"""Copies of a converted module: deep copies and pickles carry the conversion along, shallow ones are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, cast

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


def state_to_travel(module: nn.Module, names: Iterable[str]) -> Any:
    """What a copy of a converted module is made of, the conversion's entries of those names travelling.

    A class that says itself what its copies are made of is left to say so, where it does not say it in a dict.
    """
    state: Any = type(module).__getstate__(module)
    if not isinstance(state, dict):
        return state
    ours = {name: vars(module)[name] for name in names}
    return {
        key: Travelling(value) if key in ours and value is ours[key] else value
        for key, value in cast(dict[str, Any], state).items()
    }


def deep_copy_of_traced(module: nn.Module, names: Iterable[str], memo: dict[int, Any]) -> nn.Module:
    """A deep copy of an `fx.GraphModule`, which leaves the conversion's entries behind by itself."""
    copied = type(module).__deepcopy__(module, memo)  # pyright: ignore[reportAttributeAccessIssue]
    vars(copied).update({name: copy.deepcopy(vars(module)[name], memo) for name in names})
    return copied


def refuse_to_pickle(protocol: int) -> NoReturn:
    """Refuse to pickle an `fx.GraphModule`, of which a pickle holds the graph alone.

    Raises:
        ConversionError: Always.
    """
    raise ConversionError(
        "a converted fx.GraphModule cannot be pickled: the conversion would be lost; remove() it first, or convert "
        "what is loaded"
    )


def _arrived(entry: Callable[..., Any]) -> Callable[..., Any]:
    return entry
