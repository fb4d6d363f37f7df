"""The arguments that a model is called with, checked before it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from .._errors import LinearBackpropError, described


def arguments_of(inputs: Tensor | tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies of a model's arguments, lest it write into them; a tensor is the only one.

    Raises:
        LinearBackpropError: `inputs` is neither a tensor nor a tuple, or a tensor in it is empty.
    """
    if not isinstance(inputs, Tensor | tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LinearBackpropError(
            f"inputs must be a tensor, or a tuple of the model's arguments, got {described(inputs)}; for a model that "
            f"takes it as its only argument, give (inputs,)"
        )
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    for each in arguments:
        if isinstance(each, Tensor) and each.numel() == 0:
            raise LinearBackpropError(f"the batch is empty: got an input of shape {tuple(each.shape)}")
    return tree_map_only(Tensor, Tensor.clone, arguments)
