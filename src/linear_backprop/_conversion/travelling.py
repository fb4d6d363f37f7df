"""Copies of a converted module: deep copies and pickles carry the conversion along, shallow ones are refused."""

from __future__ import annotations

import copy
import warnings
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


def own_ways_to_copy(module: nn.Module) -> list[str]:
    """The methods by which a user's class makes deep copies and pickles itself, from what it knows: no conversion."""
    ways = [(name, getattr(type(module), name, None)) for name in ("__deepcopy__", "__reduce_ex__", "__reduce__")]
    return [
        name
        for name, way in ways
        if way is not None
        and way is not getattr(object, name, None)
        and not (getattr(way, "__module__", None) or "").startswith("torch.")
    ]


def warn_of_own_copy(module: nn.Module, name: str, *args: Any) -> Any:
    """What a class's own method makes of a module, with a warning that the conversion does not go along."""
    cls = type(module)
    warnings.warn(
        f"{cls.__name__} is converted and has a {name} of its own: what that makes is not converted; convert the copy",
        stacklevel=3,
    )
    return getattr(cls, name)(module, *args)


def _arrived(entry: Callable[..., Any]) -> Callable[..., Any]:
    return entry
