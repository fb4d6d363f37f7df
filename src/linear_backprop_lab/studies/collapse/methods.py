"""The ways of training that the collapse is studied with: each makes of a model one that trains that way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

import linear_backprop as lb

Method = Callable[[nn.Module], nn.Module]


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


_METHODS: dict[str, Method] = {
    "backprop": _as_it_is,
    "linear": partial(lb.collapse, always=True),
    "local-linear": partial(lb.collapse, rule=lb.LocallyExact(lb.Linear())),
    "local-mean": partial(lb.collapse, rule=lb.LocallyExact(lb.MeanLinear())),
}
_ABOVE = "above"


def method_named(name: str) -> Method:
    """The method behind a name: backprop, linear, local-linear, local-mean or above:<path>.

    The last is collapsed from what comes after a module on; what lies below runs with its true derivatives.

    Raises:
        ValueError: No method has the name.
    """
    if name in _METHODS:
        return _METHODS[name]
    kind, _, path = name.partition(":")
    if kind != _ABOVE or not path:
        raise ValueError(f"no method is named {name!r}; use {', '.join(_METHODS)}, {_ABOVE}:<path>")
    return partial(lb.collapse, where=lb.after(path), always=True)
