"""What takes the place of a converted module's `forward`.

It is set on the instance and runs the same `forward` inside a `RuleMode`. Class, parameters, buffers, hooks and
`state_dict` stay as they are, and the stand-in travels with `copy.deepcopy` and pickle.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn

from ._activations import FORMS, LEFT_ALONE, Function
from ._autograd import transforms_active
from ._conversion import Conversion
from ._errors import ConversionError
from ._kinds import Kind, kind_of
from ._layer_rule import LayerRule
from ._layers import LAYERS_LEFT_ALONE, rule_for
from ._local import run_locally
from ._mode import Observing, RuleMode
from ._rules import BackwardRule, Exact, Linear, LocallyExact
from ._sequential import nobody_watches, run_taking_over

NOT_SELECTED = "not selected by `where`"


class StandIn:
    """A module's `forward` under the conversion's rules, or with its true derivatives.

    Where an earlier conversion's stand-in is already there, this one takes its place: the latest
    conversion decides, and keeps the earlier rules of layers that it has none for.
    """

    def __init__(self, module: nn.Module, path: str, selected: bool, conversion: Conversion) -> None:
        self.module = module
        self.path = path
        self.selected = selected
        self.conversion = conversion
        self.lists_calls = kind(module, conversion.layers) is Kind.OPAQUE
        self.before: Any = module.__dict__.get("forward")
        self.own: Any = _own_forward(module)
        self.rule: BackwardRule = conversion.rule if selected else Exact()
        self.layers: tuple[LayerRule, ...] = (*conversion.layers, *_layers_kept(module, conversion)) if selected else ()

    def put(self) -> None:
        """Take the place of the module's `forward`."""
        self.module.forward = self.run
        self.conversion.stand_ins.append(self)

    def is_in_place(self) -> bool:
        """Whether nothing has taken its place since."""
        return stand_in_of(self.module) is self

    def remove(self) -> None:
        """Give the module back the `forward` it had."""
        if self.before is None:
            del self.module.__dict__["forward"]
        else:
            self.module.forward = self.before

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's `forward`."""
        # Where nothing will be differentiated the model runs untouched, PyTorch's fast paths included.
        if not (torch.is_grad_enabled() or transforms_active()):
            return self.run_untouched(*args, **kwargs)
        if isinstance(self.rule, LocallyExact):  # the model's own stand-in sees to it
            with self.conversion.running(self):
                return self.run_untouched(*args, **kwargs)
        with RuleMode(self.rule, self.layers, self.observe, self.conversion.layers):
            return self.run_untouched(*args, **kwargs)

    def run_untouched(self, *args: Any, **kwargs: Any) -> Any:
        """The `forward` of the module's class, or the one that was set on the instance."""
        if self.own is not None:
            return self.own(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def observe(self, function: Function) -> None:
        """List a non-linearity that this module's own `forward` calls."""
        if not self.lists_calls or torch.compiler.is_compiling():
            return
        layers = self.conversion.layers
        rule = rule_for(function, layers) or (self.conversion.rule if function in FORMS else None)
        if rule is not None:
            reason = "" if self.selected else NOT_SELECTED
        else:
            reason = LEFT_ALONE.get(function, "") or (LAYERS_LEFT_ALONE.get(function, "") if layers else "")
        if rule is not None or reason:
            self.conversion.add(self.path, f"{function.__name__} (called)", rule, reason)


class SequentialStandIn(StandIn):
    """A plain `nn.Sequential`, in which activations under `Linear` take over the outputs of the layers below them."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The `forward` of `nn.Sequential`."""
        if len(args) == 1 and not kwargs and torch.is_grad_enabled() and nobody_watches():
            return run_taking_over(cast(nn.Sequential, self.module), args[0], self._is_ours)
        return self.run_untouched(*args, **kwargs)

    def _is_ours(self, module: nn.Module) -> bool:
        found = stand_in_of(module)
        return (
            found is not None
            and found.conversion is self.conversion
            and type(found.rule) is Linear
            and found.own is None
        )


class OuterStandIn(StandIn):
    """The model's own `forward`, around the stand-in that it may have already.

    Args:
        model: The model.
        inner: That stand-in, taken out of its place; None if there is none.
        conversion: The conversion.
    """

    def __init__(self, model: nn.Module, inner: StandIn | None, conversion: Conversion) -> None:
        super().__init__(model, "", True, conversion)
        self.inner = inner

    def run_inner(self, *args: Any, **kwargs: Any) -> Any:
        """What would run without this one."""
        return (self.inner.run if self.inner else self.run_untouched)(*args, **kwargs)


class LocalStandIn(OuterStandIn):
    """The model's own `forward` under `LocallyExact`, which needs to see the whole of it."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The model's `forward`, its graph cut at every activation."""
        if not torch.is_grad_enabled():
            return self.run_untouched(*args, **kwargs)
        assert isinstance(self.rule, LocallyExact)
        return run_locally(self._observed, self.module, self.rule, args, kwargs, self.layers)

    def _observed(self, *args: Any, **kwargs: Any) -> Any:
        with Observing(self.conversion.observe):
            return self.run_inner(*args, **kwargs)


class CheckedStandIn(OuterStandIn):
    """The model's own `forward`, where only running it can tell whether it calls anything to change."""

    checked = False

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The model's `forward`, and once the check."""
        result = self.run_inner(*args, **kwargs)
        if not self.checked and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.checked = True
            require_a_change(self.conversion, "the model ran once and called", self.module)
        return result


def run_whole(conversion: Conversion, model: nn.Module) -> None:
    """Have the model's own stand-in see to the rule, for all that the model runs."""
    LocalStandIn(model, _taken_out(conversion, model), conversion).put()


def check_at_first_run(conversion: Conversion, model: nn.Module) -> None:
    """Have the model's first forward pass prove that something is changed."""
    CheckedStandIn(model, _taken_out(conversion, model), conversion).put()


def _taken_out(conversion: Conversion, model: nn.Module) -> StandIn | None:
    """The model's own stand-in, taken out of its place."""
    own = next((each for each in conversion.stand_ins if each.module is model), None)
    if own is not None:
        conversion.stand_ins.remove(own)
        own.remove()
    return own


def require_a_change(conversion: Conversion, subject: str, model: nn.Module) -> None:
    """Raise if the conversion changed nothing."""
    if conversion.changed:
        return
    seen = ", ".join(f"{site.what} at {site.path or 'the model'} ({site.reason})" for site in conversion.unchanged)
    classes = ", ".join(sorted({type(module).__name__ for module in model.modules()}))
    layer = ", and no layer that `layers` govern," if conversion.layers else ""
    raise ConversionError(
        f"{subject} no elementwise activation{layer} to change. Non-linearities seen: {seen or 'none'}; "
        f"modules: {classes}. "
        f"Widen `where`, or put `with_rule` on activations written out in arithmetic or in TorchScript"
    )


def stand_in_of(module: nn.Module) -> StandIn | None:
    """What stands in for the module's `forward`; None if nothing does."""
    owner = getattr(module.__dict__.get("forward"), "__self__", None)
    return owner if isinstance(owner, StandIn) else None


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy without any conversion."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        while (stand_in := stand_in_of(module)) is not None:
            stand_in.remove()
    return copied


def kind(module: nn.Module, layers: tuple[LayerRule, ...]) -> Kind:
    """The module's kind, whether or not something stands in for its `forward`."""
    return kind_of(module, layers, _own_forward(module) is not None)


def _layers_kept(module: nn.Module, conversion: Conversion) -> tuple[LayerRule, ...]:
    """The rules of layers that an earlier conversion put on the module and this one has none for."""
    earlier = stand_in_of(module)
    replaced = frozenset[Function]().union(*(layer.functions for layer in conversion.layers))
    return tuple(layer for layer in earlier.layers if not layer.functions & replaced) if earlier else ()


def _own_forward(module: nn.Module) -> Any:
    """The `forward` that the user set on the instance; None if there is none."""
    earlier = stand_in_of(module)
    return earlier.own if earlier else module.__dict__.get("forward")
