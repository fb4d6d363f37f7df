"""Loss, top-1 accuracy and Precision@5 error of a model on labelled images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_BATCH = 1000
_BEST = 5


@torch.no_grad()
def evaluate(forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> dict[str, float | None]:
    """`loss` (mean cross-entropy), `accuracy` (top-1) and `top5_error`, the last two in [0, 1].

    `top5_error` is what the paper calls Precision@5 error: the share of images whose label is not among the five
    classes of the largest logits. A loss that is not finite is None. The device is waited for once, at the end.

    Args:
        forward: From images to logits, (N, C).
        images: uint8 (N, 3, H, W).
        labels: int64 (N,).
    """
    totals = torch.zeros(3, dtype=torch.float64, device=images.device)
    for batch, targets in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
        logits = forward(batch)
        best = logits.topk(min(_BEST, logits.shape[1])).indices
        missed = (best != targets.unsqueeze(1)).all(dim=1).sum()
        totals += torch.cat([loss_and_hits(logits, targets), missed.double().view(1)])
    loss, accuracy, top5_error = (totals / len(images)).tolist()
    return {"loss": finite(loss), "accuracy": accuracy, "top5_error": top5_error}


def loss_and_hits(logits: Tensor, labels: Tensor) -> Tensor:
    """(2,) float64: the summed cross-entropy, and how many samples the largest logit has right."""
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([loss.double(), (logits.argmax(dim=1) == labels).sum().double()])


def finite(value: float) -> float | None:
    """The value; None where it is infinite or not a number, which JSON cannot say."""
    return value if math.isfinite(value) else None
