"""The share of every activation layer that is saturated: its derivative is close to zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._catalogue.activations import MODULES
from .._errors import LinearBackpropError, require_module
from .._torch.modes import unseen_by_modes
from ._inputs import arguments_of


@torch.inference_mode(False)
def saturation(model: nn.Module, inputs: Tensor | tuple[Any, ...], threshold: float = 0.1) -> dict[str, float]:
    """The share of an activation layer's elements that are saturated, |f'(a)| < threshold, by its path.

    An element is one unit's pre-activation a for one sample (in convolutions: at one position). f' is PyTorch's true
    derivative, whatever rule the model is under. A NaN counts as saturated. A module called several times counts all
    its elements together. The model runs once, without a graph, in the mode it is in: in training mode, batch
    normalization counts this batch, too.

    Args:
        model: Any model whose activations are modules of `torch.nn`; those its code calls as functions are not seen.
        inputs: The model's argument, or a tuple of its arguments.
        threshold: At 0.1, a tanh unit is saturated beyond |a| = 1.82; a ReLU, where a <= 0; a sigmoid, whose
            derivative is 0.25 at most, beyond |a| = 2.06.

    Raises:
        LinearBackpropError: The model ran no activation module, or the batch is empty.
    """
    require_module(model, "saturation", "a module of torch.nn")
    arguments = arguments_of(inputs)
    counts: dict[str, tuple[Tensor, int]] = {}

    def hook(path: str) -> Any:
        def count(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            flat = _slope(module, arguments[0] if arguments else keywords["input"]).abs()
            passing = (flat >= threshold).sum()
            before, elements = counts.get(path, (torch.zeros_like(passing), 0))
            counts[path] = (before + passing, elements + flat.numel())

        return count

    handles = [
        module.register_forward_pre_hook(hook(path), with_kwargs=True)
        for path, module in model.named_modules()
        if isinstance(module, tuple(MODULES))
    ]
    try:
        with torch.no_grad():
            model(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    if not counts:
        raise LinearBackpropError("the model ran no activation module of torch.nn; make its activations modules")
    shares = 1 - torch.stack([passing / elements for passing, elements in counts.values()])
    return dict(zip(counts, shares.tolist(), strict=True))


def _slope(module: nn.Module, a: Tensor) -> Tensor:
    """f'(a) of an activation module; the class's own forward, which a conversion does not change."""
    # Unseen by the rule of the code around, which a conversion may have put there.
    with unseen_by_modes(), torch.enable_grad(), torch.random.fork_rng([a.device] if a.is_cuda else []):
        leaf = a.detach().clone().requires_grad_()
        # A copy, which an in-place activation may overwrite.
        h = type(module).forward(module, leaf.clone())
        return torch.autograd.grad(h.sum(), leaf)[0]
