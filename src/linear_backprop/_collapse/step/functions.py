"""What the two `autograd.Function`s that stand for a model have in common."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..._errors import CollapseError
from ..._torch.tensors import is_batched, storage_of


def outputs_apart(values: Sequence[Tensor]) -> list[Tensor]:
    """What an `autograd.Function` is to return, for whoever called to overwrite.

    Of those that share their memory autograd would not see that what is written into one changes the others: as views
    made in a function they are refused there.
    """
    storages = [storage_of(y) for y in values]
    shown = [y.detach() for y in values]
    return [y.view_as(y) if storages.count(s) > 1 else y for y, s in zip(shown, storages, strict=True)]


def require_one_cotangent(g: Sequence[Tensor | None]) -> None:
    """Refuse cotangents that stand for many.

    Raises:
        CollapseError: One does.
    """
    if any(is_batched(each) for each in g if each is not None):
        raise CollapseError("the collapsed backward pass takes one cotangent at a time (is_grads_batched=False)")
