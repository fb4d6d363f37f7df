"""The promise of a rule of one's own to leave alone what it is given, which other parts of the graph read, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from .._errors import LinearBackpropError
from .._torch.recording import in_plain_code
from .._torch.tensors import version_of

T = TypeVar("T")


def unwritten(rule: object, method: str, given: Sequence[Tensor | None], run: Callable[[], T]) -> T:
    """The result of a rule's method, in plain code only after a look at the tensors that it was given.

    Args:
        rule: The rule.
        method: The method's name.
        given: The tensors.
        run: Calls the method.

    Raises:
        LinearBackpropError: It wrote into one of them.
    """
    if not in_plain_code():
        return run()
    read = [tensor for tensor in given if tensor is not None and not tensor.is_inference()]
    before = [version_of(tensor) for tensor in read]
    result = run()
    if [version_of(tensor) for tensor in read] != before:
        raise LinearBackpropError(
            f"{rule!r} writes into a tensor that `{method}` was given, which other parts of the graph read, too; have "
            f"it make a new one: torch.where(a < 0, 0.0, g) in the place of g[a < 0] = 0"
        )
    return result
