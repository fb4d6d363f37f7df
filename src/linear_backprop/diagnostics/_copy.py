"""A model's copy, on which a diagnostic may do what it likes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._conversion.patch import plain_copy


def copy_without_graphs(model: nn.Module) -> nn.Module:
    """A deep copy without any conversion, in which what an earlier forward pass left is a constant.

    PyTorch refuses to copy a tensor that has a graph, as `torch.nn.utils.weight_norm` and models that keep what they
    computed hold them.
    """
    with _DetachedCopies():
        return plain_copy(model)


class _DetachedCopies(TorchFunctionMode):
    """A context in which the deep copy of a tensor with a graph is one without."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))
