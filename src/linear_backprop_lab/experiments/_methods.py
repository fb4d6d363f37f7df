"""The ways of training that the collapse is studied with: each makes of a model one that trains that way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

import linear_backprop as lb

Method = Callable[[nn.Module], nn.Module]

_LOCAL_LINEAR, _LOCAL_MEAN = lb.LocallyExact(lb.Linear()), lb.LocallyExact(lb.MeanLinear())


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


def _above(path: str) -> Method:
    """Collapsed from what comes after the module at `path` on; what lies below runs with its true derivatives."""
    return partial(lb.collapse, where=lb.after(path))


def _local(glob: str) -> Method:
    """Collapsed, the exact derivative used at the activations that match `glob` alone."""
    return partial(lb.collapse, rule=_LOCAL_LINEAR, where=glob)


_METHODS: dict[str, Method] = {
    "backprop": _as_it_is,
    "linear": lb.collapse,
    "local-linear": partial(lb.collapse, rule=_LOCAL_LINEAR),
    "local-mean": partial(lb.collapse, rule=_LOCAL_MEAN),
}
_METHODS_AT: dict[str, Callable[[str], Method]] = {"above": _above, "local": _local}


def method_named(name: str) -> Method:
    """The method behind a name: backprop, linear, local-linear, local-mean, above:<path> or local:<glob>.

    Raises:
        ValueError: No method has the name.
    """
    if name in _METHODS:
        return _METHODS[name]
    kind, _, path = name.partition(":")
    if kind not in _METHODS_AT or not path:
        known = [*_METHODS, *(f"{kind}:<path>" for kind in _METHODS_AT)]
        raise ValueError(f"no method is named {name!r}; use {', '.join(known)}")
    return _METHODS_AT[kind](path)
