"""What is given to `attribute`, in captum's forms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._errors import LinearBackpropError

Tensors = Tensor | tuple[Tensor, ...]
Baselines = Tensor | int | float | tuple[Tensor | int | float, ...] | None
Target = int | tuple[int, ...] | Tensor | list[int] | list[tuple[int, ...]] | None


def as_tuple(inputs: Tensors) -> tuple[Tensor, ...]:
    """The inputs as a tuple, each a floating-point tensor with the batch first.

    Raises:
        LinearBackpropError: Something in it is not, or their batches differ.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    for each in tensors:
        if not (isinstance(each, Tensor) and each.is_floating_point() and each.dim()):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LinearBackpropError(
                f"inputs must be floating-point tensors with the batch first, got {_described(each)}; "
                f"attribute to an embedding of what is not, and pass the rest as additional_forward_args"
            )
    if len({len(each) for each in tensors}) != 1:
        raise LinearBackpropError(f"inputs differ in their batch: {[tuple(each.shape) for each in tensors]}")
    return tensors


def baselines_of(inputs: tuple[Tensor, ...], baselines: Baselines) -> tuple[Tensor, ...]:
    """A baseline of each input's own shape, dtype and device: a number everywhere, one for all samples, or one each.

    Raises:
        LinearBackpropError: There are more or fewer than inputs, or a shape fits no input.
    """
    given = baselines if isinstance(baselines, tuple) else (baselines,) * (1 if baselines is not None else len(inputs))
    if len(given) != len(inputs):
        raise LinearBackpropError(f"got {len(given)} baselines for {len(inputs)} inputs; give one for each")
    return tuple(_baseline(x, 0 if each is None else each) for x, each in zip(inputs, given, strict=True))


def _baseline(x: Tensor, baseline: Tensor | int | float) -> Tensor:
    if not isinstance(baseline, Tensor):
        return torch.full_like(x, baseline)
    if baseline.shape[1:] != x.shape[1:] or len(baseline) not in (1, len(x)):
        raise LinearBackpropError(
            f"a baseline has the shape of its input, {tuple(x.shape)}, or that of one sample, {(1, *x.shape[1:])}; "
            f"got {tuple(baseline.shape)}"
        )
    return baseline.detach().to(x).expand_as(x)


def further(arguments: Any) -> tuple[Any, ...]:
    """Additional arguments as a tuple: None for none, one by itself, or a tuple of them."""
    return () if arguments is None else arguments if isinstance(arguments, tuple) else (arguments,)


def doubled(arguments: tuple[Any, ...], samples: int) -> tuple[Any, ...]:
    """Arguments for inputs and baselines: tensors of the batch twice, all else as it is."""
    return tuple(
        torch.cat([each, each]) if isinstance(each, Tensor) and each.dim() and len(each) == samples else each
        for each in arguments
    )


def selected(outputs: Any, target: Target) -> Tensor:
    """The one output of every sample that is explained, shape (samples,).

    Args:
        outputs: Shape (samples, ...).
        target: None where there is one output per sample; a class or an index tuple for all samples; or a list or
            tensor of one for each.

    Raises:
        LinearBackpropError: The model returns no tensor, or the target does not choose one output per sample.
    """
    if not isinstance(outputs, Tensor):
        raise LinearBackpropError(f"the model returns {_described(outputs)}, not a tensor; wrap it in one that does")
    samples = len(outputs)
    if target is None:
        if outputs.numel() != samples:
            raise LinearBackpropError(
                f"target=None needs one output per sample, got outputs of shape {tuple(outputs.shape)}; give a target"
            )
        return outputs.reshape(samples)
    if isinstance(target, Tensor):
        target = target.tolist() if target.numel() > 1 else int(target.item())
    each = target if isinstance(target, list) else [target] * samples
    if len(each) != samples:
        raise LinearBackpropError(f"got {len(each)} targets for {samples} samples; give one for all or one for each")
    indices = [index if isinstance(index, tuple) else (index,) for index in each]
    if {len(index) for index in indices} != {outputs.dim() - 1}:
        raise LinearBackpropError(
            f"a target has one index for each dimension of outputs after the first, got {target!r} for outputs of "
            f"shape {tuple(outputs.shape)}"
        )
    rows = torch.arange(samples, device=outputs.device)
    columns = (torch.tensor(column, device=outputs.device) for column in zip(*indices, strict=True))
    return outputs[(rows, *columns)]


def like(inputs: Tensors, attributions: tuple[Tensor, ...]) -> Tensors:
    """The attributions in the structure of the inputs."""
    return attributions if isinstance(inputs, tuple) else attributions[0]


def _described(value: object) -> str:
    return f"a tensor of {value.dtype}, shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(type(value))
