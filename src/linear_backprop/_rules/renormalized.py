"""A rule's direction at the length of the true derivative's.

Legend: `a` is the pre-activation, `h` = f(a) the activation, `g` the cotangent that h receives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .elementwise import vector_jacobian_product
from .rule import BackwardRule, Elementwise, refuse_model_rule, require_rule


@dataclass(frozen=True)
class Renormalized(BackwardRule):
    """A rule's cotangent of every sample, at the Euclidean norm of the true one, g * f'(a).

    r * |g * f'(a)| / |r|, where r is the rule's cotangent and the norms are over all but the first dimension, which
    counts samples; a tensor without dimensions is one sample. Where r is 0 or the true cotangent is, all of it is 0;
    where either holds infinity or NaN, NaN. Kinks are those of the rule, and of f's own derivative for the norm. Not
    linear in g, as `Guided` is not. Source: LinBP as TA-Bench runs it (Li et al., 2023, arXiv 2311.01323), after Guo et
    al. (2020), who rescale what passes through linear activations.

    Args:
        rule: Gives the direction.

    Raises:
        LinearBackpropError: `rule` is not a rule or is for whole models.

    Examples:
        >>> x = torch.tensor([[-3.0, 4.0]], requires_grad=True)
        >>> lb.with_rule(torch.relu, lb.Renormalized(lb.Linear()))(x).backward(torch.tensor([[3.0, 4.0]]))
        >>> x.grad  # Linear: (3, 4), of length 5; Exact: (0, 4), of length 4
        tensor([[2.4000, 3.2000]])
    """

    formula = "the rule's, of every sample at the norm of g * f'(a)"
    source = "LinBP in TA-Bench; Li et al. (2023)"

    rule: BackwardRule

    def __post_init__(self) -> None:
        require_rule(self.rule)
        refuse_model_rule(self.rule, "Renormalized")

    def cotangent(self, g: Tensor, a: Tensor, f: Elementwise) -> Tensor:
        """The rule's cotangent, rescaled."""
        direction, _ = _normalized(self.rule.cotangent(g, a, f))
        _, length = _normalized(vector_jacobian_product(f, a, g))
        return (direction * length).to(g.dtype)

    @property
    def takes_complex(self) -> bool:
        """True if the rule does."""
        return self.rule.takes_complex


def _normalized(cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """A cotangent with every sample at norm 1, or 0 where it is 0; and its norms, which broadcast against it.

    In float32 at least, and by way of the largest entry: squares of gradients under- and overflow.
    """
    wide = cotangent.to(torch.promote_types(cotangent.dtype, torch.float32))
    if cotangent.numel() == 0:
        return wide, wide
    others = tuple(range(1, cotangent.dim()))
    largest = wide.abs().amax(others, keepdim=True) if others else wide.abs()
    scaled = wide / torch.where(largest == 0, 1.0, largest)
    norm = scaled.abs().square().sum(others, keepdim=True).sqrt() if others else scaled.abs()
    return scaled / torch.where(norm == 0, 1.0, norm), largest * norm
