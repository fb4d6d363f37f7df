"""A model -> the same model under a rule, and a report of what was changed.

Every module that may call an activation gets a stand-in for its `forward`, set on the instance: it
runs the same `forward` inside a `RuleMode`. Class, parameters, buffers, hooks and `state_dict` stay as
they are, and the stand-in travels with `copy.deepcopy` and pickle.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from ._activations import FORMS, LEFT_ALONE, LEFT_ALONE_MODULES, MODULES, Function
from ._autograd import transforms_active
from ._errors import ConversionError
from ._mode import RuleMode
from ._rules import BackwardRule, Exact, Linear, require_rule
from ._where import Where, selector

_NOT_SELECTED = "not selected by `where`"
_SCRIPTED = "TorchScript: its code cannot be reached; convert the model before scripting it"


class _Kind(enum.Enum):
    ACTIVATION = "an elementwise activation of torch.nn"
    LEFT_ALONE = "a non-linearity that cannot follow a rule"
    PLAIN = "a module of torch.nn that calls no activation itself"
    OPAQUE = "code that may call anything"


@dataclass(frozen=True)
class Site:
    """One place where a model runs a non-linearity.

    Attributes:
        path: The module's path; "" is the model itself.
        what: The module's class, or the function that the module's own `forward` calls.
        changed: Whether it follows the rule.
        reason: Why not; empty where it is changed.
    """

    path: str
    what: str
    changed: bool
    reason: str = ""


class Conversion:
    """What `convert` did, and the means to undo it.

    Modules are listed at once. Activations that a module's own `forward` calls (`F.relu(x)`) are listed
    once they have run, compiled code excepted: they follow the rule all the same.

    Attributes:
        rule: The rule the changed activations follow.
    """

    def __init__(self, rule: BackwardRule) -> None:
        self.rule = rule
        self._sites: dict[tuple[str, str], Site] = {}
        self._stand_ins: list[_StandIn] = []

    @property
    def changed(self) -> list[Site]:
        """The activations that follow the rule."""
        return [site for site in self._sites.values() if site.changed]

    @property
    def unchanged(self) -> list[Site]:
        """The non-linearities that do not, each with the reason."""
        return [site for site in self._sites.values() if not site.changed]

    def remove(self) -> None:
        """Make the model exactly what it was; nothing is done the second time.

        Raises:
            ConversionError: The model was converted again since; nothing is removed.
        """
        for stand_in in self._stand_ins:
            if _stand_in_of(stand_in.module) is not stand_in:
                raise ConversionError(
                    f"module {stand_in.path!r} was converted again, or its forward replaced, after this "
                    f"conversion; remove that first"
                )
        while self._stand_ins:
            self._stand_ins.pop().remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __str__(self) -> str:
        rows = [("path", "activation", "backward pass")]
        for site in self._sites.values():
            rows.append(
                (
                    site.path or "(model)",
                    site.what,
                    repr(self.rule) if site.changed else "left: " + site.reason,
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [f"{path:<{widths[0]}}  {what:<{widths[1]}}  {how}" for path, what, how in rows]
        return "\n".join([*lines, f"{len(self.changed)} changed, {len(self.unchanged)} left alone"])

    def __repr__(self) -> str:
        return f"<Conversion to {self.rule!r}: {len(self.changed)} changed, {len(self.unchanged)} left alone>"

    def add(self, site: Site) -> None:
        """List a site; for the stand-ins, not for users."""
        self._sites.setdefault((site.path, site.what), site)

    def put(self, stand_in: _StandIn) -> None:
        """Set a stand-in on its module; for `convert`, not for users."""
        stand_in.module.forward = stand_in.run
        self._stand_ins.append(stand_in)

    def check(self, model: nn.Module) -> None:
        """Have the model's first forward pass prove that something is changed; for `convert`."""
        own = next((s for s in self._stand_ins if s.module is model), None)
        rule = own.rule if own else None
        if own:
            self._stand_ins.remove(own)
            own.remove()
        self.put(_CheckedStandIn(model, "", rule, self))


class _StandIn:
    """A module's `forward` under a rule; with no rule, as it was.

    Where an earlier conversion's stand-in is already there, this one takes its place: the latest
    conversion decides.
    """

    def __init__(self, module: nn.Module, path: str, rule: BackwardRule | None, conversion: Conversion) -> None:
        self.module = module
        self.path = path
        self.rule = rule
        self.conversion = conversion
        self.lists_calls = _kind(module) is _Kind.OPAQUE
        self.before: Any = module.__dict__.get("forward")
        earlier = _stand_in_of(module)
        self.own: Any = earlier.own if earlier else self.before

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's `forward`."""
        # Where nothing will be differentiated the model runs untouched, PyTorch's fast paths included.
        if self.rule is None or not (torch.is_grad_enabled() or transforms_active()):
            return self.run_untouched(*args, **kwargs)
        with RuleMode(self.rule, self.observe):
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
        reason = LEFT_ALONE.get(function, "")
        if function in FORMS and self.rule != self.conversion.rule:
            reason = _NOT_SELECTED
        self.conversion.add(Site(self.path, f"{function.__name__} (called)", not reason, reason))

    def remove(self) -> None:
        """Give the module back the `forward` it had."""
        if self.before is None:
            del self.module.__dict__["forward"]
        else:
            self.module.forward = self.before


class _CheckedStandIn(_StandIn):
    """The model's own `forward`, where only running it can tell whether it calls an activation."""

    checked = False

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The model's `forward`, and once the check."""
        result = super().run(*args, **kwargs)
        if not self.checked and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.checked = True
            _require_a_change(self.conversion, "the model ran once and called", self.module)
        return result


def _stand_in_of(module: nn.Module) -> _StandIn | None:
    owner = getattr(module.__dict__.get("forward"), "__self__", None)
    return owner if isinstance(owner, _StandIn) else None


def is_converted(model: nn.Module) -> bool:
    """Whether any module of the model is under a conversion."""
    return any(_stand_in_of(module) for module in model.modules())


def convert(model: nn.Module, rule: BackwardRule = Linear(), where: Where = None) -> Conversion:  # noqa: B008
    """Put a rule on every elementwise activation a model runs, in place.

    The forward pass stays bit-identical. Covered are the modules of `torch.nn`, the functions of
    `torch.nn.functional` and `torch`, tensor methods and in-place forms, wherever the model's modules call
    them. Softmax, GLU, attention and fused recurrent kernels are left alone and listed. Converting
    again replaces the rule where `where` selects; `remove()` then brings the earlier one back.

    `torch.export` keeps the forward pass of a converted model but drops every custom backward rule, as
    it drops all `torch.autograd.Function`s: an exported program trains by Backprop.

    Args:
        model: Any module; one under `torch.compile`, DDP or FSDP2, too.
        rule: The backward rule.
        where: Which modules' activations: a glob on their paths ("features.*"), several of them, a
            predicate of path and module, or `after(path)`; None for all. Inside a selected module, one that is
            not selected keeps its true derivatives.

    Returns:
        The conversion: prints as a table; `remove()`, or leaving it as a context, restores the model.

    Raises:
        ConversionError: There is nothing to change: at once where that is certain, or after the model's
            first forward pass where the model's own code had to be run to know.
        LinearBackpropError: `rule` is not a rule, or `where` selects nothing or is of no known kind.
    """
    require_rule(rule)
    selects = selector(where, model)
    conversion = Conversion(rule)
    try:
        opaque = _stand_in_everywhere(conversion, model, selects)
        if not conversion.changed and not opaque:
            _require_a_change(conversion, "the model has", model)
        if not conversion.changed:
            conversion.check(model)
    except BaseException:
        conversion.remove()
        raise
    return conversion


def _stand_in_everywhere(conversion: Conversion, model: nn.Module, selects: Callable[[str, nn.Module], bool]) -> bool:
    """Put a stand-in wherever one is needed; whether any of them has code that may call anything."""
    ruled: set[str] = set()
    opaque = False
    for path, module in model.named_modules():
        kind = _kind(module)
        if kind is _Kind.PLAIN:
            continue
        selected = kind is not _Kind.LEFT_ALONE and bool(selects(path, module))
        if kind is not _Kind.OPAQUE:
            reason = "" if selected else _reason_left_alone(module) or _NOT_SELECTED
            conversion.add(Site(path, type(module).__name__, selected, reason))
        if selected:
            conversion.put(_StandIn(module, path, conversion.rule, conversion))
            ruled.add(path)
            opaque = opaque or kind is _Kind.OPAQUE
        elif _is_below(path, ruled) and not _stand_in_of(module) and not _is_scripted(module):
            conversion.put(_StandIn(module, path, Exact(), conversion))
    return opaque


def _is_below(path: str, ruled: set[str]) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:length]) in ruled for length in range(len(parts)))


def _kind(module: nn.Module) -> _Kind:
    if _reason_left_alone(module):
        return _Kind.LEFT_ALONE
    if "forward" in module.__dict__ and not _stand_in_of(module):
        return _Kind.OPAQUE
    author = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    if author in MODULES:
        return _Kind.ACTIVATION
    # Only the transformer layers among PyTorch's own take an activation function as an argument.
    plain = author.__module__.startswith("torch.nn.modules.") and not author.__module__.endswith(".transformer")
    return _Kind.PLAIN if plain else _Kind.OPAQUE


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _reason_left_alone(module: nn.Module) -> str:
    if _is_scripted(module):
        return _SCRIPTED
    return next((reason for cls, reason in LEFT_ALONE_MODULES.items() if isinstance(module, cls)), "")


def _require_a_change(conversion: Conversion, subject: str, model: nn.Module) -> None:
    if conversion.changed:
        return
    seen = ", ".join(f"{site.what} at {site.path or 'the model'} ({site.reason})" for site in conversion.unchanged)
    classes = ", ".join(sorted({type(module).__name__ for module in model.modules()}))
    raise ConversionError(
        f"{subject} no elementwise activation to change. Non-linearities seen: {seen or 'none'}; modules: {classes}. "
        f"Widen `where`, or put `with_rule` on activations written out in arithmetic or in TorchScript"
    )
