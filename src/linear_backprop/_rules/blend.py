"""Annealing from one rule to another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import LinearBackpropError, require_number
from .._torch.recording import in_plain_code
from .rule import BackwardRule, Elementwise, refuse_model_rule, require_rule


@dataclass(frozen=True, eq=False, repr=False)
class Blend(BackwardRule):
    """(1 - weight) * first + weight * second: annealing from one rule to another.

    Given as a 0-dimensional tensor, the weight may be changed in place while training
    (`weight.fill_(0.3)`), compiled code included, without recompiling. Two blends are equal if their
    rules are and their weights are equal now; the hash leaves the weight out, so it is stable.

    Raises:
        LinearBackpropError: The weight is no number in [0, 1] and no 0-dimensional tensor that holds one, or a part is
            not a rule or is for whole models.

    Examples:
        >>> weight = torch.tensor(0.0)
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> conversion = lb.convert(model, lb.Blend(lb.Linear(), lb.Exact(), weight))
        >>> weight.fill_(0.5)  # halfway to Backprop
        tensor(0.5000)
    """

    formula = "(1 - weight) * first + weight * second"
    source = "annealing between two rules"

    first: BackwardRule
    second: BackwardRule
    weight: float | Tensor

    def __post_init__(self) -> None:
        for part in (self.first, self.second):
            require_rule(part)
            refuse_model_rule(part, "Blend")
        if not isinstance(self.weight, Tensor):
            object.__setattr__(self, "weight", require_number(self.weight, "Blend's weight"))
        elif self.weight.dim() or self.weight.is_complex() or self.weight.dtype == torch.bool:
            raise LinearBackpropError(
                f"Blend's weight must be a number or a 0-dimensional tensor of one, got a tensor of "
                f"{self.weight.dtype}, shape {tuple(self.weight.shape)}; give torch.tensor(0.5)"
            )
        elif not in_plain_code() or self.weight.is_meta:  # there is no value to look at
            return
        if not 0 <= self.weight <= 1:
            raise LinearBackpropError(f"Blend's weight must lie in [0, 1], got {float(self.weight)}")

    def cotangent(self, g: Tensor, a: Tensor, f: Elementwise) -> Tensor:
        """(1 - weight) * first + weight * second."""
        first = self.first.cotangent(g, a, f)
        second = self.second.cotangent(g, a, f)
        return (1 - self.weight) * first + self.weight * second

    @property
    def uses_pre_activation(self) -> bool:
        """True if either part reads a."""
        return self.first.uses_pre_activation or self.second.uses_pre_activation

    @property
    def takes_complex(self) -> bool:
        """True if both parts do."""
        return self.first.takes_complex and self.second.takes_complex

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Blend):
            return NotImplemented
        parts = (self.first, self.second, float(self.weight))
        return parts == (other.first, other.second, float(other.weight))

    def __hash__(self) -> int:
        return hash((Blend, self.first, self.second))

    def __repr__(self) -> str:
        value = float(self.weight)
        weight = f"torch.tensor({value})" if isinstance(self.weight, Tensor) else repr(value)
        return f"Blend(first={self.first!r}, second={self.second!r}, weight={weight})"
