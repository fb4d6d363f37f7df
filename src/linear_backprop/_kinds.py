"""What a module of a model is, to a conversion."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import torch
from torch import nn

from ._activations import LEFT_ALONE_MODULES, MODULES
from ._layer_rule import LayerRule
from ._layers import LAYER_MODULES_LEFT_ALONE

_SCRIPTED = "TorchScript: its code cannot be reached; convert the model it was made from, unscripted"


class Kind(enum.Enum):
    """What a module's own `forward` may call."""

    ACTIVATION = "an elementwise activation of torch.nn"
    LAYER = "a layer of torch.nn that a layer's rule governs"
    LEFT_ALONE = "a non-linearity that cannot follow a rule"
    PLAIN = "a module of torch.nn that calls nothing that follows a rule"
    OPAQUE = "code that may call anything"


def kind_of(module: nn.Module, layers: tuple[LayerRule, ...], replaced: bool) -> Kind:
    """The module's kind.

    Args:
        module: The module.
        layers: The layers' rules in force.
        replaced: Whether a `forward` of the user's own is set on the instance.
    """
    if reason_left_alone(module, layers):
        return Kind.LEFT_ALONE
    if replaced:
        return Kind.OPAQUE
    author = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    if author in MODULES:
        return Kind.ACTIVATION
    # Only the transformer layers among PyTorch's own take an activation function as an argument.
    if not author.__module__.startswith("torch.nn.modules.") or author.__module__.endswith(".transformer"):
        return Kind.OPAQUE
    return Kind.PLAIN if rule_of(module, layers) is None else Kind.LAYER


def rule_of(module: nn.Module, layers: Iterable[LayerRule]) -> LayerRule | None:
    """The layer's rule that governs a module; None if none does."""
    return next((layer for layer in layers if isinstance(module, layer.modules)), None)


def is_scripted(module: nn.Module) -> bool:
    """Whether the module's code is out of Python's reach."""
    return isinstance(module, torch.jit.ScriptModule)


def reason_left_alone(module: nn.Module, layers: tuple[LayerRule, ...]) -> str:
    """Why the module cannot follow a rule; empty if it can, or has no need to."""
    if is_scripted(module):
        return _SCRIPTED
    if layers and rule_of(module, layers) is not None:
        return ""
    left_alone = {**LEFT_ALONE_MODULES, **(LAYER_MODULES_LEFT_ALONE if layers else {})}
    return next((reason for cls, reason in left_alone.items() if isinstance(module, cls)), "")
