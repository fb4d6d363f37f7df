"""The attacks that are compared, as values that a configuration can hold."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import nn

import linear_backprop as lb
from linear_backprop.attacks import BPA, IterativeFGSM

Kind = Literal["I-FGSM", "LinBP", "Renormalized", "first two runs", "SiLU", "BPA"]

PLAIN: Kind = "I-FGSM"
LINEAR: tuple[Kind, ...] = ("LinBP", "Renormalized", "first two runs")
"""Those with a linear backward pass above a layer."""


class Method(NamedTuple):
    """One attack.

    Attributes:
        kind: What the activations after a layer follow: `Linear`, `Renormalized(Linear)`, `Linear` in the first two
            runs of a block's activation alone, SiLU's slope, or this with softened pooling.
        changed: How many modules of activations that is, counted from the output; 0 for none.
    """

    kind: Kind
    changed: int = 0


def methods_of(kinds: tuple[Kind, ...], activations: int, positions: dict[str, int], runs_each: int) -> list[Method]:
    """I-FGSM, and every kind at positions spread evenly, the last of which changes all activations.

    Args:
        kinds: Those beside I-FGSM.
        activations: How many modules of activations the source has.
        positions: How many at most, of "LinBP" and of "others".
        runs_each: How often a block runs its activation; "first two runs" makes sense above 2.
    """
    chosen = [Method(PLAIN)]
    for kind in kinds:
        if kind == "first two runs" and runs_each < 3:
            continue
        wanted = min(activations, positions["LinBP" if kind == "LinBP" else "others"])
        counts = sorted({round(activations * place / wanted) for place in range(1, wanted + 1)})
        chosen += [Method(kind, count) for count in counts]
    return chosen


def activation_paths(model: nn.Module) -> list[str]:
    """The paths of the modules of activations, in the order of the definition, which is that of running."""
    return [path for path, module in model.named_modules() if isinstance(module, nn.ReLU | nn.ReLU6)]


def attack_of(method: Method, model: nn.Module, settings: dict[str, Any], seed: int) -> IterativeFGSM:
    """The attack on a source; its random start is that of the seed.

    Args:
        method: Which.
        model: The source.
        settings: `eps`, `alpha`, `steps` and `momentum`.
        seed: Of the random start.
    """
    device = next(model.parameters()).device
    more: dict[str, Any] = {**settings, "random_start": True, "generator": torch.Generator(device).manual_seed(seed)}
    if method.kind == PLAIN:
        return IterativeFGSM(model, **more)
    paths = activation_paths(model)
    before = len(paths) - method.changed
    after = paths[before - 1] if before else ""
    if method.kind == "BPA":
        return BPA(model, after=after, **more)
    if method.kind == "first two runs":
        blocks = [lb.calls(path, 0, 1) for path in paths[before:] if path.endswith(".relu")]
        return IterativeFGSM(model, rule=lb.Linear(), where=blocks, **more)
    rules: dict[str, lb.BackwardRule] = {
        "LinBP": lb.Linear(),
        "Renormalized": lb.Renormalized(lb.Linear()),
        "SiLU": lb.Surrogate("silu"),
    }
    return IterativeFGSM(model, rule=rules[method.kind], where=lb.after(after), **more)
