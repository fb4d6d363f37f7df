"""A rule put on a model, in place.

Every module that may call what follows a rule gets a patch for its `forward`; see `patch.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from torch import nn

from .._errors import LinearBackpropError, require_module
from .._rules.elementwise import Linear
from .._rules.layers import require_layers
from .._rules.rule import BackwardRule, LayerRule, ModelRule, require_rule
from .._torch.functions import Function
from .._torch.modules import as_it_runs, is_compiled
from .classify import Found, Kind, classify, is_scripted
from .patch import Patch, Patches, WrittenOutPatch, own_forward, patch_of, remove_all
from .report import Conversion, Report
from .sequential import SequentialPatch
from .single_runs import keep_counting, put_single_runs
from .where import Selection, Where, selection
from .whole_model import CheckedPatch, ModelRulePatch

_PATCHES = {Kind.CONTAINER: SequentialPatch, Kind.WRITTEN_OUT: WrittenOutPatch}


def convert(
    model: nn.Module,
    rule: BackwardRule = Linear(),  # noqa: B008
    where: Where = None,
    layers: Iterable[LayerRule] = (),
) -> Conversion:
    """Put a rule on every elementwise activation a model runs, in place, and others on layers if they are given.

    The forward pass stays bit-identical. Covered are the modules of `torch.nn`, the functions of
    `torch.nn.functional` and `torch`, their kernels, tensor methods and in-place forms, wherever the model's modules
    call them: in `forward`, in any other method, and when activation checkpointing runs them again. Softmax, GLU,
    attention and fused recurrent kernels are left alone and listed. Converting again replaces the rule where
    `where` selects; `remove()` then brings the earlier one back.

    `torch.export` keeps the forward pass of a converted model but drops every custom backward rule, as
    it drops all `torch.autograd.Function`s: an exported program trains by Backprop.

    Args:
        model: Any module; one under `torch.compile`, DDP or FSDP2, too.
        rule: The backward rule.
        where: The modules whose activations and layers are to follow: a glob on their paths ("features.*"), several
            of them, a predicate of path and module, `after(path)`, or `calls(glob, ...)` for single runs; None for all.
            Of the paths of a module that has several, any may select it. Inside a selected module, one that is not
            selected keeps its true derivatives.
        layers: The rules of layers that are not elementwise, such as `LINEAR_LAYERS`, in modules and as functions;
            without one a layer keeps its true derivatives, or what an earlier conversion gave it. With any `rule`.

    Returns:
        The conversion: prints as a table; `remove()`, or leaving it as a context, restores the model.

    Raises:
        ConversionError: There is nothing to change: at once where that is certain, or after the model's
            first forward pass where the model's own code had to be run to know. At the backward pass: activation
            checkpointing runs a module again after its conversion was removed or changed.
        LinearBackpropError: `model` is not a module, `rule` is not a rule, `layers` holds something else than layers'
            rules, or `where` selects nothing, is of no known kind, or is given together with `LocallyExact`.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> conversion = lb.convert(model, lb.Linear())
        >>> print(conversion)
        path  activation  backward pass
        1     ReLU        Linear()
        1 changed, 0 left alone
        >>> conversion.remove()
    """
    require_module(model, "convert", "with_rule")
    require_rule(rule)
    if isinstance(rule, ModelRule) and where is not None:
        raise LinearBackpropError(
            f"convert puts {rule!r} on whole models; for a part of one, use lb.collapse(model, {rule!r}, where=...)"
        )
    selected, chosen = selection(where, model), require_layers(layers)
    found = _found(model, selected, chosen)
    report, patches = Report(rule, chosen, found), Patches(rule, chosen)
    try:
        _put_patches(patches, found, report.list_call)
        keep_counting(patches)
        if single := [each for each in found if each.runs is not None]:
            put_single_runs(model, patches, selected, single)
        if isinstance(rule, ModelRule):
            opaque = frozenset(each.path for each in found if each.kind is Kind.OPAQUE)
            patches.put(ModelRulePatch(model, patches, partial(_list_call, report, opaque)))
        if not report.changed and not any(each.selected and each.kind is Kind.OPAQUE for each in found):
            report.require_a_change("the model has", model)
        # Nobody observes the calls of what is compiled.
        if not report.changed and not any(is_compiled(module) for module in model.modules()):
            check = partial(report.require_a_change, "the model ran once and called")
            patches.put(CheckedPatch(model, patches, check))
    except BaseException:
        remove_all(patches.placed)
        raise
    return Conversion(report, partial(remove_all, patches.placed), partial(patches.why_not_in_force, model))


def _list_call(report: Report, opaque: frozenset[str], path: str, function: Function) -> None:
    """List a call of a module whose code may call anything; others were listed before they ran."""
    if path in opaque:
        report.list_call(path, True, function)


def _found(model: nn.Module, selected: Selection, layers: tuple[LayerRule, ...]) -> list[Found]:
    """Every module of the model, classified."""
    found: list[Found] = []
    for path, module in model.named_modules():
        classified = classify(as_it_runs(module), layers, replaced=own_forward(module) is not None)
        may_follow = classified.kind not in (Kind.PLAIN, Kind.LEFT_ALONE)
        chosen = may_follow and selected.selects(path, module)
        found.append(Found(path, module, classified, chosen, selected.runs(path) if chosen else None))
    return found


def _put_patches(patches: Patches, found: list[Found], list_call: Callable[[str, bool, Function], None]) -> None:
    """Put a patch on every module that needs one."""
    selected = {each.path for each in found if each.selected}
    for each in found:
        # What is below a selected module and is not selected itself keeps its true derivatives.
        below = each.kind is not Kind.PLAIN and _is_below(each.path, selected)
        governed = each.selected or (below and _follows_what_is_around(each.module))
        observer = partial(list_call, each.path, each.selected) if each.kind in (Kind.OPAQUE, Kind.CONTAINER) else None
        if governed or (each.kind is Kind.CONTAINER and not patch_of(each.module)):
            patch = _PATCHES.get(each.kind, Patch)
            patches.put(patch(each.module, each.path, patches, selected=each.selected, observer=observer))


def _follows_what_is_around(module: nn.Module) -> bool:
    return not patch_of(module) and not is_scripted(module)


def _is_below(path: str, selected: set[str]) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:length]) in selected for length in range(len(parts)))
