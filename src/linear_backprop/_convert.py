"""A model -> the same model under a rule, in place.

Every module that may call what follows a rule gets a stand-in for its `forward`; see `_stand_in.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from ._conversion import Conversion
from ._errors import LinearBackpropError
from ._kinds import Kind, is_scripted, reason_left_alone, rule_of
from ._layer_rule import LayerRule
from ._layers import require_layers
from ._rules import BackwardRule, Linear, LocallyExact, require_rule
from ._stand_in import (
    NOT_SELECTED,
    SequentialStandIn,
    StandIn,
    check_at_first_run,
    kind,
    require_a_change,
    run_whole,
    stand_in_of,
)
from ._where import Where, selector


def is_converted(model: nn.Module) -> bool:
    """Whether any module of the model is under a conversion."""
    return any(stand_in_of(module) for module in model.modules())


def convert(
    model: nn.Module,
    rule: BackwardRule = Linear(),  # noqa: B008
    where: Where = None,
    layers: Iterable[LayerRule] = (),
) -> Conversion:
    """Put a rule on every elementwise activation a model runs, in place, and others on layers if they are given.

    The forward pass stays bit-identical. Covered are the modules of `torch.nn`, the functions of
    `torch.nn.functional` and `torch`, tensor methods and in-place forms, wherever the model's modules call
    them. Softmax, GLU, attention and fused recurrent kernels are left alone and listed. Converting
    again replaces the rule where `where` selects; `remove()` then brings the earlier one back.

    `torch.export` keeps the forward pass of a converted model but drops every custom backward rule, as
    it drops all `torch.autograd.Function`s: an exported program trains by Backprop.

    Args:
        model: Any module; one under `torch.compile`, DDP or FSDP2, too.
        rule: The backward rule.
        where: Which modules' activations and layers: a glob on their paths ("features.*"), several of them, a
            predicate of path and module, or `after(path)`; None for all. Inside a selected module, one that is
            not selected keeps its true derivatives.
        layers: The rules of layers that are not elementwise, such as `LINEAR_LAYERS`, in modules and as functions;
            without one a layer keeps its true derivatives, or what an earlier conversion gave it. With any `rule`.

    Returns:
        The conversion: prints as a table; `remove()`, or leaving it as a context, restores the model.

    Raises:
        ConversionError: There is nothing to change: at once where that is certain, or after the model's
            first forward pass where the model's own code had to be run to know.
        LinearBackpropError: `rule` is not a rule, `layers` holds something else than layers' rules, or `where`
            selects nothing, is of no known kind, or is given together with `LocallyExact`.
    """
    require_rule(rule)
    if isinstance(rule, LocallyExact) and where is not None:
        raise LinearBackpropError(
            f"convert puts {rule!r} on whole models; for a part of one, use lb.collapse(model, {rule!r}, where=...)"
        )
    selects = selector(where, model)
    conversion = Conversion(rule, require_layers(layers))
    try:
        opaque = _stand_in_everywhere(conversion, model, selects)
        if isinstance(rule, LocallyExact):
            run_whole(conversion, model)
        if not conversion.changed and not opaque:
            require_a_change(conversion, "the model has", model)
        compiled = any(hasattr(module, "_orig_mod") for module in model.modules())  # whose calls nobody observes
        if not conversion.changed and not compiled:
            check_at_first_run(conversion, model)
    except BaseException:
        conversion.remove()
        raise
    return conversion


def _stand_in_everywhere(conversion: Conversion, model: nn.Module, selects: Callable[[str, nn.Module], bool]) -> bool:
    """Put a stand-in wherever one is needed; whether any of them has code that may call anything."""
    ruled: set[str] = set()
    opaque = False
    for path, module in model.named_modules():
        what = kind(module, conversion.layers)
        if what is Kind.PLAIN:
            if type(module) is nn.Sequential and type(conversion.rule) is Linear and not stand_in_of(module):
                SequentialStandIn(module, path, True, conversion).put()
            continue
        selected = what is not Kind.LEFT_ALONE and bool(selects(path, module))
        if what is not Kind.OPAQUE:
            reason = "" if selected else reason_left_alone(module, conversion.layers) or NOT_SELECTED
            rule = rule_of(module, conversion.layers) or conversion.rule
            conversion.add(path, type(module).__name__, rule, reason)
        if selected:
            StandIn(module, path, True, conversion).put()
            ruled.add(path)
            opaque = opaque or what is Kind.OPAQUE
        elif _is_below(path, ruled) and not stand_in_of(module) and not is_scripted(module):
            StandIn(module, path, False, conversion).put()
    return opaque


def _is_below(path: str, ruled: set[str]) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:length]) in ruled for length in range(len(parts)))
