"""What is given to an attack, checked."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._errors import LinearBackpropError, described, require_number, require_whole_number
from .._torch.modules import modules_that_train

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def require_model(model: object) -> None:
    """Refuse what is not a module."""
    if not isinstance(model, nn.Module):
        raise LinearBackpropError(f"an attack needs a module, got {model!r}")


def require_size(value: object, name: str) -> float:
    """A number, 0 or more and finite, as a plain float."""
    size = require_number(value, name)
    if not 0 <= size < math.inf:
        raise LinearBackpropError(f"{name} must be 0 or more and finite, got {size}")
    return size


def require_change(value: object, name: str) -> float:
    """How far a pixel of an image in [0, 1] may go, as a plain float."""
    change = require_size(value, name)
    if change > 1:
        raise LinearBackpropError(f"{name} must be 1 at most, as images lie in [0, 1], got {change}; divide by 255")
    return change


def require_steps(value: object) -> int:
    """A number of steps, as a plain int."""
    steps = require_whole_number(value, "steps")
    if steps < 0:
        raise LinearBackpropError(f"steps must be 0 or more, got {steps}")
    return steps


def require_generator(generator: object) -> None:
    """Refuse what draws nothing."""
    if not isinstance(generator, torch.Generator | None):
        raise LinearBackpropError(
            f"generator must be a torch.Generator or None, got {described(generator)}; of a seed make one: "
            f"torch.Generator().manual_seed(seed)"
        )


def require_eval_mode(model: nn.Module) -> None:
    """Refuse a model whose statistics the attack would change, and whose gradient would be drawn at random."""
    training = next(modules_that_train(model), None)
    if training is not None:
        raise LinearBackpropError(
            f"{f'module {training!r} of the model' if training else 'the model'} is in training mode, in which batch "
            f"statistics change and units are dropped; call model.eval() first, before an export"
        )


def require_images(images: object) -> Tensor:
    """Images in [0, 1], the batch first, without a graph."""
    if not (isinstance(images, Tensor) and images.is_floating_point() and images.dim() > 1):
        given = f"{images.dtype}, shape {tuple(images.shape)}" if isinstance(images, Tensor) else repr(type(images))
        raise LinearBackpropError(
            f"images must be a floating-point tensor in [0, 1] with the batch first, got {given}; divide bytes by 255"
        )
    if images.layout != torch.strided:
        raise LinearBackpropError(f"images must be a dense tensor, got the layout {images.layout}; call .to_dense()")
    low, high = images.detach().aminmax() if images.numel() else (0.0, 1.0)
    if not (low >= 0 and high <= 1):
        raise LinearBackpropError(
            f"images must lie in [0, 1], got values from {low:.4g} to {high:.4g}; let the model normalize them itself, "
            f"as its first layer"
        )
    return images.detach()


def require_labels(labels: object, images: Tensor) -> Tensor:
    """Class indices, one for each image, where the images are; a copy."""
    if not (isinstance(labels, Tensor) and labels.dtype in _INTEGERS and labels.shape == images.shape[:1]):
        given = f"{labels.dtype}, shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else repr(type(labels))
        raise LinearBackpropError(
            f"labels must be class indices, a tensor of integers of shape {tuple(images.shape[:1])}, got {given}"
        )
    return labels.to(images.device, torch.int64, copy=True)


def require_logits(logits: object, labels: Tensor) -> Tensor:
    """The model's output for the batch, in float32 at least."""
    if not (isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == len(labels)) or logits.is_complex():
        given = f"{logits.dtype}, shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else repr(type(logits))
        raise LinearBackpropError(
            f"the model must return real logits of shape (N, classes) for N = {len(labels)} images, got {given}; wrap "
            f"it in one that does"
        )
    if logits.shape[1] < 2:
        raise LinearBackpropError(
            f"the model must return logits of two classes or more, got shape {tuple(logits.shape)}: one class has a "
            f"loss of 0 everywhere; return a single logit z as the two logits (0, z)"
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def require_classes(labels: Tensor, logits: Tensor) -> None:
    """Refuse labels that are no classes of the model."""
    classes = logits.shape[1]
    if not bool(((labels >= 0) & (labels < classes)).all()):
        raise LinearBackpropError(
            f"labels must lie in 0 to {classes - 1}, the model's classes; got {labels.min()} to {labels.max()}"
        )
