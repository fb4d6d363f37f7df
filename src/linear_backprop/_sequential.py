"""`Linear` at no cost at all in an `nn.Sequential`: an activation takes over the output of the layer below it.

Under `Linear` the cotangent of h is that of a, so the tensor that holds a may keep its place in autograd's graph
while its values become h: no node is left. That is right only where nobody else reads a. In the loop of an
`nn.Sequential` a is a local variable; whoever else could be told of it is looked for at every call: hooks, modes
that are not ours, forwards set on instances, subclasses that may do anything.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules
from torch.overrides import _get_current_function_mode_stack

from ._activations import MODULES
from ._autograd import transforms_active, unseen_by_modes
from ._mode import RuleMode

# They make a new tensor, and keep it neither for themselves nor for autograd.
_LAYERS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
)


def nobody_watches() -> bool:
    """Whether no transform, no hook on all modules and no mode but ours is told of what modules compute."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state()
        or transforms_active()
        or of_all_modules._global_forward_hooks
        or of_all_modules._global_forward_pre_hooks
        or of_all_modules._global_backward_hooks
        or of_all_modules._global_backward_pre_hooks
        or torch._C._len_torch_dispatch_stack()
        or not all(isinstance(mode, RuleMode) for mode in _get_current_function_mode_stack())
    )


def run_taking_over(sequential: nn.Sequential, input: Tensor, is_ours: Callable[[nn.Module], bool]) -> Tensor:
    """The `forward` of `nn.Sequential`.

    Args:
        sequential: Runs its modules one after another.
        input: Of the first of them.
        is_ours: Whether a module is an activation under `Linear` whose own `forward` is its class's.
    """
    below: nn.Module | None = None
    for module in sequential:
        may = below is not None and _is_a_plain_layer(below) and _takes_one_tensor(module) and is_ours(module)
        input = _take_over(module, input) if may and _is_fresh(input) else module(input)
        below = module
    return input


def _take_over(activation: nn.Module, a: Tensor) -> Tensor:
    with unseen_by_modes():
        h = type(activation).forward(activation, a.detach())
    if h.dtype != a.dtype:  # autocast runs softplus in float32
        return activation(a)
    a.data = h
    return a


def _is_a_plain_layer(module: nn.Module) -> bool:
    return type(module) in _LAYERS and "forward" not in module.__dict__ and not _has_hooks(module)


def _takes_one_tensor(module: nn.Module) -> bool:
    return type(module) in MODULES and not module._parameters and not _has_hooks(module)


def _is_fresh(a: Tensor) -> bool:
    return type(a) is Tensor and not a.is_leaf and not a._is_view()


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
