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
    # Imported here because it takes a second, and the command line does much without it.
    from torchmetrics.classification import MulticlassAccuracy

    totals = torch.zeros(2, dtype=torch.float64, device=images.device)
    top5: MulticlassAccuracy | None = None
    for batch, targets in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
        logits = forward(batch)
        totals += loss_and_hits(logits, targets)
        if top5 is None:
            classes = logits.shape[1]
            # Each process of a process group judges all images, or judges alone: there is nothing to gather.
            k = min(_BEST, classes)
            top5 = MulticlassAccuracy(classes, k, average="micro", validate_args=False, sync_on_compute=False)
            top5 = top5.to(images.device)
        top5.update(logits, targets)
    assert top5 is not None
    loss, accuracy = (totals / len(images)).tolist()
    # torchmetrics counts in float32; six digits are those of a set of a million images.
    return {"loss": finite(loss), "accuracy": accuracy, "top5_error": round(1 - top5.compute().item(), 6)}


def loss_and_hits(logits: Tensor, labels: Tensor) -> Tensor:
    """(2,) float64: the summed cross-entropy, and how many samples the largest logit has right."""
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([loss.double(), (logits.argmax(dim=1) == labels).sum().double()])


def finite(value: float) -> float | None:
    """The value; None where it is infinite or not a number, which JSON cannot say."""
    return value if math.isfinite(value) else None
