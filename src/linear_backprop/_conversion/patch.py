"""The patch that takes the place of a converted module's `forward`, and of its class's further methods.

It is set on the instance and runs the same code inside a `RuleMode`. Class, parameters, buffers, hooks and `state_dict`
stay as they are, and the patch travels with `copy.deepcopy` and pickle.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from .._call import Call
from .._errors import ConversionError
from .._rules.elementwise import Exact
from .._rules.rule import BackwardRule, LayerRule, ModelRule
from .._torch.dynamo import let_enter
from .._torch.functions import Function
from .._torch.modes import function_modes, without
from .._torch.modules import replica_of
from .._torch.recording import transforms_active
from .block import Observer, RuleMode
from .classify import may_be_an_activation
from .entries import Entry, ForwardEntry, entry_of
from .methods import Unbound, own_methods
from .run_call import run_activation
from .travelling import deep_copy_of_traced, own_ways_to_copy, refuse_to_pickle, state_to_travel, warn_of_own_copy


class Patches:
    """The patches of one conversion, in the order in which they were put.

    Args:
        rule: The rule of activations.
        layers: The rules of layers.

    Attributes:
        placed: All patches.
        removed: True once the conversion is removed.
    """

    def __init__(self, rule: BackwardRule, layers: tuple[LayerRule, ...]) -> None:
        self.rule = rule
        self.layers = layers
        self.placed: list[Patch] = []
        self.removed = False

    def __getstate__(self) -> dict[str, Any]:
        # Every patch has this object: a copy of one block is not to take the whole model along.
        return {**vars(self), "placed": []}

    def put(self, patch: Patch) -> None:
        """Let a patch take its module's place."""
        patch.put()
        self.placed.append(patch)

    def why_not_in_force(self, model: nn.Module, path: str) -> str:
        """Why the rule does not decide for a module of the model that it was put on; empty where it does."""
        if not self.placed:
            return ""  # removed: as it was
        module = dict(model.named_modules()).get(path)
        patches = [patch for patch in self.placed if patch.module is module]
        if not patches:
            return "another module has taken its place"
        return "" if any(patch.is_in_force() for patch in patches) else "a later conversion decides"

    def take_out(self, module: nn.Module) -> Patch | None:
        """Remove the patch of one module; None if there is none."""
        patch = next((patch for patch in self.placed if patch.module is module), None)
        if patch is not None:
            self.placed.remove(patch)
            patch.remove()
        return patch


def remove_all(patches: list[Patch]) -> None:
    """Give every module back what it had; nothing is done the second time.

    Raises:
        ConversionError: Something else has taken a patch's place since; nothing is removed.
    """
    for patch in patches:
        if patch_of(patch.module) is not patch:
            which = f"module {patch.path!r}" if patch.path else "the model"
            raise ConversionError(
                f"{which} was converted again, or its forward replaced, after this conversion; remove that first"
            )
    while patches:
        patch = patches.pop()
        patch.remove()
        patch.patches.removed = True


class Patch:
    """A module's code under the conversion's rules, or with its true derivatives.

    Where an earlier conversion's patch is already there, this one takes its place: the latest
    conversion decides, and keeps the earlier rules of layers that it has none for.

    Args:
        module: The module.
        path: Its path in the model.
        patches: The patches of the conversion.
        selected: False to keep the module's true derivatives.
        observer: Told of the functions that the module's own code calls; None for PyTorch's own modules, whose calls
            are not listed.
    """

    def __init__(
        self, module: nn.Module, path: str, patches: Patches, *, selected: bool, observer: Observer | None = None
    ) -> None:
        self.module = module
        self.path = path
        self.patches = patches
        self.observer = observer
        self.own: Any = own_forward(module)
        self.rule: BackwardRule = patches.rule if selected else Exact()
        self.layers: tuple[LayerRule, ...] = _layers_in_force(module, patches.layers) if selected else ()
        self.mode = self._mode()
        of_pytorch = self.own is None and _written_in(type(module)).startswith("torch.nn.")
        self.forward = Unbound(type(module), "forward")
        self._is_users_code = observer is not None and not of_pytorch
        self._before: dict[str, Any] = {}
        self._placed: dict[str, Callable[..., Any]] = {}

    def entries(self) -> dict[str, Callable[..., Any]]:
        """What the module's instance gets: an entry for each way into its code."""
        methods = () if isinstance(self.rule, ModelRule) or self.observer is None else own_methods(type(self.module))
        traced = {"__deepcopy__": self.copy_deeply, "__reduce_ex__": refuse_to_pickle}
        warning = {name: partial(warn_of_own_copy, self.module, name) for name in own_ways_to_copy(self.module)}
        return {
            **warning,
            **(traced if isinstance(self.module, GraphModule) else {"__getstate__": self.state_to_travel}),
            **{name: Entry(self, Unbound(type(self.module), name)) for name in methods},
            "_replicate_for_data_parallel": self.replicate,
            "forward": ForwardEntry(self),
        }

    def put(self) -> None:
        """Set the entries on the module."""
        attributes, entries = vars(self.module), self.entries()
        self._before = {name: attributes[name] for name in entries if name in attributes}
        self._placed = entries
        attributes.update(entries)

    @property
    def earlier(self) -> Patch | None:
        """The patch of an earlier conversion that this one took the place of; None if there was none."""
        before = self._before.get("forward")
        return before.patch if isinstance(before, ForwardEntry) else None

    @property
    def inside(self) -> tuple[Patch, ...]:
        """The patches that this one runs."""
        return ()

    def is_in_force(self) -> bool:
        """True unless a later conversion decides for the module."""
        running = [patch for patch in (patch_of(self.module),) if patch is not None]
        while running:
            patch = running.pop()
            if patch is self:
                return True
            running += patch.inside
        return False

    def remove(self) -> None:
        """Give the module back what it had, but for what somebody set in the place of an entry since."""
        attributes = vars(self.module)
        for name, entry in self._placed.items():
            if entry == attributes.get(name):  # of a copy, two bound methods may be equal and not the same
                del attributes[name]
                attributes |= {name: self._before[name]} if name in self._before else {}

    def replicate(self) -> nn.Module:
        """The module's replica on another device, for `nn.DataParallel`, with a patch of its own."""
        replica = replica_of(self.module)
        vars(replica).update(self.of(replica).entries())
        return replica

    def state_to_travel(self) -> Any:
        """What a copy of the module is made of."""
        return state_to_travel(self.module, self._placed)

    def copy_deeply(self, memo: dict[int, Any]) -> nn.Module:
        """A deep copy of the module, if it is a traced one."""
        return deep_copy_of_traced(self.module, self._placed, memo)

    def of(self, module: nn.Module) -> Patch:
        """The same patch of another module."""
        patch = copy.copy(self)
        patch.module = module
        return patch

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's `forward`."""
        if isinstance(self.rule, ModelRule):  # which the model's own patch sees to
            return self.run_untouched(*args, **kwargs)
        if not self._may_be_recorded():
            return self._run_unseen(*args, **kwargs)
        return self.under_the_rule(self.run_untouched, *args, **kwargs)

    def under_the_rule(self, function: Function, *args: Any, **kwargs: Any) -> Any:
        """A function's result, whatever it calls following the rule."""
        if torch.compiler.is_compiling():
            let_enter(self.mode)
        elif self._is_innermost():  # a method that `forward` calls
            return function(*args, **kwargs)
        with self.mode:
            return function(*args, **kwargs)

    def run_untouched(self, *args: Any, **kwargs: Any) -> Any:
        """The `forward` of the module's class, or the one that was set on the instance."""
        if self.own is not None:
            return self.own(*args, **kwargs)
        return self.forward.call(self.module, *args, **kwargs)

    def observe(self, function: Function) -> None:
        """Tell the observer of a call; what is compiled is not observed."""
        if self.observer is not None and not torch.compiler.is_compiling():
            self.observer(function)

    def _mode(self) -> RuleMode:
        observe = None if self.observer is None else self.observe
        notices = observe is not None and may_be_an_activation(self.module)
        return RuleMode(
            self.rule, self.layers, observe=observe, notices_arithmetic=notices, withheld=self.patches.layers
        )

    def _is_innermost(self) -> bool:
        modes = function_modes()
        return bool(modes) and modes[-1] is self.mode

    def _may_be_recorded(self) -> bool:
        """False where nothing will be differentiated: a user's code may enable grad by itself, PyTorch's does not."""
        if torch.is_grad_enabled() or transforms_active():
            return True
        return self._is_users_code

    def _run_unseen(self, *args: Any, **kwargs: Any) -> Any:
        """The module untouched, PyTorch's fast paths included, which it leaves where any mode is around."""
        if torch.compiler.is_compiling() or not function_modes():
            return self.run_untouched(*args, **kwargs)
        with without(RuleMode):
            return self.run_untouched(*args, **kwargs)


class WrittenOutPatch(Patch):
    """An activation that is written out in arithmetic, as a whole under the rule."""

    def under_the_rule(self, function: Function, *args: Any, **kwargs: Any) -> Any:
        """The activation's result."""
        return run_activation(Call(function, args, kwargs), self.rule)


def _written_in(cls: type[nn.Module]) -> str:
    """The module that the class's `forward` was written in; "" where that is not known, as of a traced one."""
    return getattr(getattr(cls, "forward", None), "__module__", None) or ""


def patch_of(module: nn.Module) -> Patch | None:
    """The patch in the place of the module's `forward`; None if there is none."""
    entry = entry_of(module)
    return entry.patch if entry else None


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
