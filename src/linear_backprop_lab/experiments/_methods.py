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
    "linear": lb.collapse,
    "local-linear": partial(lb.collapse, rule=lb.LocallyExact(lb.Linear())),
    "local-mean": partial(lb.collapse, rule=lb.LocallyExact(lb.MeanLinear())),
}
# Collapsed from what comes after a module on; what lies below runs with its true derivatives.
_RULES_ABOVE: dict[str, lb.Linear | lb.MeanLinear] = {"above": lb.Linear(), "mean-above": lb.MeanLinear()}


def method_named(name: str) -> Method:
    """The method behind a name: backprop, linear, local-linear, local-mean, above:<path> or mean-above:<path>.

    Raises:
        ValueError: No method has the name.
    """
    if name in _METHODS:
        return _METHODS[name]
    kind, _, path = name.partition(":")
    if kind not in _RULES_ABOVE or not path:
        known = [*_METHODS, *(f"{kind}:<path>" for kind in _RULES_ABOVE)]
        raise ValueError(f"no method is named {name!r}; use {', '.join(known)}")
    return partial(lb.collapse, rule=_RULES_ABOVE[kind], where=lb.after(path))
