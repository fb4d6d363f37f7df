"""Why an operation cannot be collapsed, and what to do, in words."""

from __future__ import annotations

from torch import fx, nn

from .._catalogue.not_elementwise import FUNCTIONS, row_of
from .graph import function_of


def advice_for(
    node: fx.Node, module: nn.Module | None, fault: str, *, call_is_at_fault: bool, activations_above: bool
) -> str:
    """The reason, and a remedy that works.

    Args:
        node: The operation.
        module: The module whose `forward` called it.
        fault: Why the proof failed.
        call_is_at_fault: True if a rule governs it, and cannot in this very call.
        activations_above: True if activations run after it, so that what lies above it can be collapsed.
    """
    if call_is_at_fault:
        return _sentences(fault, "call it otherwise, or collapse only what lies above it (`where=`)")
    row = (row_of(module) if module is not None else None) or FUNCTIONS.get(function_of(node))
    if row is not None:
        return _sentences(row.in_collapse.reason, row.in_collapse.remedy)
    if activations_above:
        return _sentences(fault, "write it otherwise, or collapse only what lies above it (`where=`)")
    return _sentences(fault, "move it out of the model, into the loss")


def _sentences(reason: str, remedy: str) -> str:
    return f"{reason}. {remedy[:1].upper()}{remedy[1:]}"
