"""A look at the layers of a model under training: do gradients reach them, are their units saturated?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop.diagnostics import gradient_alignment, saturation

from ._evaluation import finite


def layer_names(model: nn.Module, inputs: Tensor) -> dict[str, list[str]]:
    """What the lists of `diagnose` count: `activations`, the paths of modules, and `weights`, of parameters."""
    return {"activations": list(_saturation(_trial(model), inputs)), "weights": list(_weights(model))}


def diagnose(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
    """Saturation and gradients on one batch in training mode, to four digits; the model is left as it was.

    Both gradients are taken at the same weights, Backprop's and Linear Backprop's, whatever rule the model is under.

    Args:
        model: The model; its activations are modules.
        inputs: (N, 3, H, W), as the model takes them.
        labels: int64 (N,).

    Returns:
        `saturation`: an activation layer each, the share of its elements with |f'(a)| < 0.1;
        `gradient_norm_backprop` and `gradient_norm_linear`: a weight each, the length of its gradient;
        `cosine`: between the two gradients, all parameters together.
    """
    trial = _trial(model)
    alignment = gradient_alignment(trial, lb.Linear(), inputs, lambda logits: F.cross_entropy(logits, labels))
    norms = [alignment.norms[name] for name in _weights(model)]
    return {
        "saturation": [_short(share) for share in _saturation(trial, inputs).values()],
        "gradient_norm_backprop": [_short(true) for _, true in norms],
        "gradient_norm_linear": [_short(linear) for linear, _ in norms],
        "cosine": _short(alignment.cosine),
    }


def _saturation(trial: nn.Module, inputs: Tensor) -> dict[str, float]:
    """Of every activation layer; random numbers that the model draws are not missed by training."""
    with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
        return saturation(trial, inputs)


def _trial(model: nn.Module) -> nn.Module:
    """A copy under Backprop, in training mode."""
    trial = copy.deepcopy(model)
    lb.convert(trial, lb.Exact())
    return trial.train()


def _weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of affine layers: parameters of two dimensions at least."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.dim() >= 2}


def _short(value: float) -> float | None:
    return finite(float(f"{value:.4g}"))
