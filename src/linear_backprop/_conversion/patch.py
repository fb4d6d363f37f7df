"""The patch that takes the place of a converted module's `forward`.

It is set on the instance and runs the same `forward` inside a `RuleMode`. Class, parameters, buffers, hooks and
`state_dict` stay as they are, and the patch travels with `copy.deepcopy` and pickle.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from .._errors import ConversionError
from .._rules.elementwise import Exact
from .._rules.rule import BackwardRule, LayerRule, ModelRule
from .._torch import Function, transforms_active
from .block import Observer, RuleMode


class Patches:
    """The patches of one conversion, in the order in which they were put.

    Args:
        rule: The rule of activations.
        layers: The rules of layers.
    """

    def __init__(self, rule: BackwardRule, layers: tuple[LayerRule, ...]) -> None:
        self.rule = rule
        self.layers = layers
        self._patches: list[Patch] = []

    def put(self, patch: Patch) -> None:
        """Let a patch take the place of its module's `forward`."""
        patch.module.forward = patch.run
        self._patches.append(patch)

    def take_out(self, module: nn.Module) -> Patch | None:
        """Remove the patch of one module; None if there is none."""
        patch = next((patch for patch in self._patches if patch.module is module), None)
        if patch is not None:
            self._patches.remove(patch)
            patch.remove()
        return patch

    def remove(self) -> None:
        """Give every module back the `forward` it had; nothing is done the second time.

        Raises:
            ConversionError: Something else has taken a patch's place since; nothing is removed.
        """
        for patch in self._patches:
            if patch_of(patch.module) is not patch:
                raise ConversionError(
                    f"module {patch.path!r} was converted again, or its forward replaced, after this "
                    f"conversion; remove that first"
                )
        while self._patches:
            self._patches.pop().remove()


class Patch:
    """A module's `forward` under the conversion's rules, or with its true derivatives.

    Where an earlier conversion's patch is already there, this one takes its place: the latest
    conversion decides, and keeps the earlier rules of layers that it has none for.

    Args:
        module: The module.
        path: Its path in the model.
        patches: The patches of the conversion.
        selected: False to keep the module's true derivatives.
        observer: Told of the functions that the module's own `forward` calls; None if they are not to be listed.
    """

    def __init__(
        self, module: nn.Module, path: str, patches: Patches, *, selected: bool, observer: Observer | None = None
    ) -> None:
        self.module = module
        self.path = path
        self.patches = patches
        self.observer = observer
        self.before: Any = module.__dict__.get("forward")
        self.own: Any = own_forward(module)
        self.rule: BackwardRule = patches.rule if selected else Exact()
        self.layers: tuple[LayerRule, ...] = _layers_in_force(module, patches.layers) if selected else ()

    def remove(self) -> None:
        """Give the module back the `forward` it had."""
        if self.before is None:
            del self.module.__dict__["forward"]
        else:
            self.module.forward = self.before

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's `forward`."""
        # Where nothing will be differentiated the model runs untouched, PyTorch's fast paths included; and under a
        # `ModelRule`, which the model's own patch sees to.
        if isinstance(self.rule, ModelRule) or not (torch.is_grad_enabled() or transforms_active()):
            return self.run_untouched(*args, **kwargs)
        with RuleMode(self.rule, self.layers, observe=self.observe, withheld=self.patches.layers):
            return self.run_untouched(*args, **kwargs)

    def run_untouched(self, *args: Any, **kwargs: Any) -> Any:
        """The `forward` of the module's class, or the one that was set on the instance."""
        if self.own is not None:
            return self.own(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def observe(self, function: Function) -> None:
        """Tell the observer of a call; what is compiled is not observed."""
        if self.observer is not None and not torch.compiler.is_compiling():
            self.observer(function)


def patch_of(module: nn.Module) -> Patch | None:
    """The patch in the place of the module's `forward`; None if there is none."""
    owner = getattr(module.__dict__.get("forward"), "__self__", None)
    return owner if isinstance(owner, Patch) else None


def own_forward(module: nn.Module) -> Any:
    """The `forward` that the user set on the instance; None if there is none."""
    patch = patch_of(module)
    return patch.own if patch else module.__dict__.get("forward")


def is_converted(model: nn.Module) -> bool:
    """True if any module of the model is under a conversion."""
    return any(patch_of(module) for module in model.modules())


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy without any conversion."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        while (patch := patch_of(module)) is not None:
            patch.remove()
    return copied


def _layers_in_force(module: nn.Module, layers: tuple[LayerRule, ...]) -> tuple[LayerRule, ...]:
    """A conversion's rules of layers, and those of an earlier one that it has none for."""
    earlier = patch_of(module)
    if earlier is None:
        return layers
    replaced = frozenset[Function]().union(*(layer.functions for layer in layers))
    return (*layers, *(layer for layer in earlier.layers if not layer.functions & replaced))
