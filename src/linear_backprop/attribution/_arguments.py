"""What is given to `attribute`, in captum's forms."""

from __future__ import annotations

from numbers import Real
from operator import index
from typing import Any

import torch
from torch import Tensor

from .._errors import LinearBackpropError, described

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
        shapes = [tuple(each.shape) for each in tensors]
        raise LinearBackpropError(f"inputs differ in their batch: {shapes}" if shapes else "inputs is an empty tuple")
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
    if isinstance(baseline, Real):
        return torch.full_like(x, float(baseline))
    if not isinstance(baseline, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LinearBackpropError(f"a baseline is a tensor, a number or None, got {_described(baseline)}")
    if not baseline.dim() or baseline.shape[1:] != x.shape[1:] or len(baseline) not in (1, len(x)):
        raise LinearBackpropError(
            f"a baseline has the shape of its input, {tuple(x.shape)}, or that of one sample, {(1, *x.shape[1:])}; "
            f"got {tuple(baseline.shape)}"
        )
    return baseline.detach().to(x).expand_as(x)


def further(arguments: Any) -> tuple[Any, ...]:
    """Additional arguments as a tuple: None for none, one by itself, or a tuple of them."""
    given: tuple[Any, ...] = () if arguments is None else arguments if isinstance(arguments, tuple) else (arguments,)
    # No graph can be recorded of a tensor that was made in inference mode.
    return tuple(each.clone() if isinstance(each, Tensor) and each.is_inference() else each for each in given)


def doubled(arguments: tuple[Any, ...], samples: int) -> tuple[Any, ...]:
    """Arguments for inputs and baselines: tensors of the batch twice, all else as it is."""
    return tuple(
        torch.cat([each, each]) if isinstance(each, Tensor) and each.dim() and len(each) == samples else each
        for each in arguments
    )


def targets_of(target: Target, samples: int) -> list[tuple[int, ...]] | None:
    """An index tuple for each sample; None where there is one output per sample.

    Raises:
        LinearBackpropError: It is in none of captum's forms, or for another number of samples.
    """
    if target is None:
        return None
    given: Any = target
    if isinstance(target, Tensor):
        given = target.item() if target.numel() == 1 else target.tolist()
    each: list[Any] = given if isinstance(given, list) else [given] * samples
    if len(each) != samples:
        raise LinearBackpropError(f"got {len(each)} targets for {samples} samples; give one for all or one for each")
    try:
        return [tuple(map(_index, one if isinstance(one, tuple) else (one,))) for one in each]
    except TypeError as error:
        raise LinearBackpropError(
            f"target must be a class, an index tuple, or a list or a tensor of shape ({samples},) of one for each "
            f"sample, all of integers, got {_described(target)}"
        ) from error


def _index(place: Any) -> int:
    if isinstance(place, bool):
        raise TypeError("a bool is no class")
    return index(place)


def selected(outputs: Any, targets: list[tuple[int, ...]] | None, samples: int) -> Tensor:
    """The one output of every sample that is explained, shape (samples,).

    Args:
        outputs: Shape (samples, ...).
        targets: The index tuple of each sample's; None where there is one output per sample.
        samples: How many the model was given.

    Raises:
        LinearBackpropError: The model returns no real tensor with the batch first, or the targets do not choose one
            output per sample.
    """
    if not isinstance(outputs, Tensor) or outputs.is_complex():
        raise LinearBackpropError(
            f"the model returns {_described(outputs)}, not a real tensor; wrap it in one that does"
        )
    shape = tuple(outputs.shape)
    if shape[:1] != (samples,):
        raise LinearBackpropError(
            f"the model returns a tensor of shape {shape} for {samples} samples; put the batch first"
        )
    if targets is None:
        if outputs.numel() != samples:
            raise LinearBackpropError(
                f"target=None needs one output per sample, got outputs of shape {shape}; give a target"
            )
        return outputs.reshape(samples)
    for one in targets:
        if len(one) != len(shape) - 1:
            raise LinearBackpropError(
                f"a target has one index for each dimension of outputs after the first, got {one} for outputs of shape "
                f"{shape}"
            )
        if not all(-size <= place < size for place, size in zip(one, shape[1:], strict=True)):
            raise LinearBackpropError(f"target {one} lies outside the outputs of a sample, shape {shape[1:]}")
    places = torch.tensor(targets, dtype=torch.int64, device=outputs.device).reshape(samples, len(shape) - 1)
    return outputs[(torch.arange(samples, device=outputs.device), *places.unbind(1))]


def like(inputs: Tensors, attributions: tuple[Tensor, ...]) -> Tensors:
    """The attributions in the structure of the inputs."""
    return attributions if isinstance(inputs, tuple) else attributions[0]


def _described(value: object) -> str:
    return f"a tensor of {value.dtype}, shape {tuple(value.shape)}" if isinstance(value, Tensor) else described(value)
