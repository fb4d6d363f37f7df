"""The patch of an `nn.Sequential`.

`Linear` costs nothing at all there: an activation takes over the output of the layer below it.

Under `Linear` the cotangent of h is that of a, so the tensor that holds a may keep its place in autograd's graph
while its values become h: no node is left. That is right only where nobody else reads a. In the loop of an
`nn.Sequential` a is a local variable; whoever else could be told of it is looked for at every call: hooks, modes
that are not ours, forwards set on instances, subclasses that may do anything.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._catalogue.activations import MODULES
from .._rules.elementwise import Linear
from .._torch.modes import function_modes, unseen_by_modes
from .._torch.modules import children_of, has_hooks, has_parameters, modules_are_watched
from .._torch.recording import transforms_active
from .._torch.tensors import is_view
from .block import Observer, RuleMode
from .patch import Patch, Patches, patch_of
from .recomputation import is_checkpointed

# They make a new tensor, and keep it neither for themselves nor for autograd.
_LAYERS = {
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
}

# What runs in them, as PyTorch wrote it: whoever put something in its place may keep what it returns.
_FUNCTIONALS = ("linear", *(f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)), "batch_norm")
_CODE = [
    *((layer, name, getattr(layer, name)) for layer in _LAYERS for name in ("forward", "__call__")),
    *((functional, name, getattr(functional, name)) for name in _FUNCTIONALS),
]


class SequentialPatch(Patch):
    """An `nn.Sequential`: its modules are patched one by one, unless some of them are not those that were converted.

    A module that took another's place follows the rule, as it does wherever a user's code calls it.
    """

    def __init__(
        self, module: nn.Module, path: str, patches: Patches, *, selected: bool, observer: Observer | None = None
    ) -> None:
        super().__init__(module, path, patches, selected=selected, observer=observer)
        self.children = children_of(module)
        self.takes_over = type(module) is nn.Sequential and type(patches.rule) is Linear and patch_of(module) is None

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The `forward` of `nn.Sequential`."""
        if children_of(self.module) != self.children:
            return super().run(*args, **kwargs)
        if self.takes_over and len(args) == 1 and not kwargs and torch.is_grad_enabled() and _nobody_watches():
            return self._run_taking_over(args[0])
        return self.run_untouched(*args, **kwargs)

    def _run_taking_over(self, input: Tensor) -> Tensor:
        assert isinstance(self.module, nn.Sequential)
        below: nn.Module | None = None
        for module in self.module:
            may = _takes_one_tensor(module) and self._is_ours(module) and below is not None and _is_a_plain_layer(below)
            input = _take_over(module, input) if may and _is_fresh(input) else module(input)
            below = module
        return input

    def _is_ours(self, module: nn.Module) -> bool:
        """True for an activation that this conversion put under `Linear`, its `forward` being its class's."""
        patch = patch_of(module)
        return (
            type(patch) is Patch and patch.patches is self.patches and type(patch.rule) is Linear and patch.own is None
        )


def _nobody_watches() -> bool:
    """True if no transform, checkpoint, hook on all modules, replaced code or mode but ours is told of what runs."""
    return not (
        torch.compiler.is_compiling()
        or transforms_active()
        or modules_are_watched()
        or is_checkpointed()
        or not all(isinstance(mode, RuleMode) for mode in function_modes())
        or any(getattr(owner, name) is not code for owner, name, code in _CODE)
    )


def _take_over(activation: nn.Module, a: Tensor) -> Tensor:
    with unseen_by_modes():
        h = type(activation).forward(activation, a.detach())
    if h.dtype != a.dtype:  # autocast runs softplus in float32
        return activation(a)
    a.data = h
    return a


def _is_a_plain_layer(module: nn.Module) -> bool:
    return type(module) in _LAYERS and "forward" not in module.__dict__ and not has_hooks(module)


def _takes_one_tensor(module: nn.Module) -> bool:
    return type(module) in MODULES and not has_parameters(module) and not has_hooks(module)


def _is_fresh(a: Tensor) -> bool:
    return type(a) is Tensor and not a.is_leaf and not is_view(a)
