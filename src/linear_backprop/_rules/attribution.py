"""The elementwise rules that explain a network's output by its input.

Legend: `a` is the pre-activation, `h` = f(a) the activation, `g` the cotangent that h receives. Every rule says what
cotangent goes on to a.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import LinearBackpropError
from .._torch.recording import in_plain_code
from .elementwise import value_and_pullback
from .rule import BackwardRule, Elementwise, keep_numbers


@dataclass(frozen=True)
class Guided(BackwardRule):
    """g where a > 0 and g > 0, else 0: guided backpropagation.

    At a = 0, and where a or g is NaN, the cotangent is 0. Not linear in g: forward-mode differentiation applies the
    same formula to the tangent, which is not the transpose. Source: Springenberg et al. (2015), section 3.4.

    Examples:
        >>> x = torch.tensor([-2.0, 2.0, 3.0], requires_grad=True)
        >>> lb.with_rule(torch.relu, lb.Guided())(x).backward(torch.tensor([1.0, 1.0, -1.0]))
        >>> x.grad
        tensor([0., 1., 0.])
    """

    formula = "g if a > 0 and g > 0 else 0"
    source = "guided backpropagation; Springenberg et al. (2015)"

    def cotangent(self, g: Tensor, a: Tensor, f: Elementwise) -> Tensor:
        """g where a and g are positive, else 0."""
        return torch.where((a > 0) & (g > 0), g, 0.0)

    @property
    def takes_complex(self) -> bool:
        """False: it compares."""
        return False


@dataclass(frozen=True)
class Deconvolution(BackwardRule):
    """g where g > 0, else 0: the rectifier put on the cotangent in place of the activation's derivative.

    The same for every a, at kinks, infinities and NaN, too; 0 where g is NaN. Saves nothing for the backward pass. Not
    linear in g, as `Guided` is not. Source: Zeiler and Fergus (2014), section 2.1.

    Examples:
        >>> x = torch.tensor([-2.0, 2.0, 3.0], requires_grad=True)
        >>> lb.with_rule(torch.relu, lb.Deconvolution())(x).backward(torch.tensor([1.0, 1.0, -1.0]))
        >>> x.grad
        tensor([1., 1., 0.])
    """

    formula = "g if g > 0 else 0"
    source = "deconvnet; Zeiler and Fergus (2014)"

    def cotangent(self, g: Tensor, a: Tensor | None, f: Elementwise | None) -> Tensor:
        """g where it is positive, else 0."""
        return torch.where(g > 0, g, 0.0)

    @property
    def uses_pre_activation(self) -> bool:
        """False: the pre-activation is not kept."""
        return False

    @property
    def takes_complex(self) -> bool:
        """False: it compares."""
        return False


@dataclass(frozen=True)
class Rescale(BackwardRule):
    """g * (f(a) - f(a0)) / (a - a0): DeepLIFT's multiplier, the slope between an input and its baseline.

    The batch, the first dimension, holds the inputs in its first half and their baselines, in the same order, in its
    second: a0 stands half a batch below a. Both halves receive the multiplier of their pair, so what reaches the inputs
    times (input - baseline) sums to the difference of outputs wherever all else is affine.
    Where |a - a0| <= epsilon, a = a0 above all, and where the difference is NaN, it is g * f'(a) at each sample's
    own a, PyTorch's choice at a kink. Of complex numbers it is the slope's conjugate, as PyTorch's cotangents are
    g * conj(f'(a)). Source: Shrikumar et al. (2017), equation 13.

    Args:
        epsilon: The distance up to which the derivative stands for the slope, whose rounding errors would grow.

    Raises:
        LinearBackpropError: epsilon is no number, or negative; at the backward pass: the batch has no two halves.

    Examples:
        >>> pair = torch.tensor([3.0, -1.0], requires_grad=True)  # an input and its baseline
        >>> lb.with_rule(torch.relu, lb.Rescale())(pair).sum().backward()
        >>> pair.grad  # (3 - 0) / (3 - -1)
        tensor([0.7500, 0.7500])
    """

    formula = "g * (f(a) - f(a0)) / (a - a0)"
    source = "DeepLIFT's Rescale rule; Shrikumar et al. (2017), eq. 13"

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        keep_distance(self, "epsilon")

    def cotangent(self, g: Tensor, a: Tensor, f: Elementwise) -> Tensor:
        """g times the slope between each pair."""
        distance = difference(a, self)
        far = distance.abs() > self.epsilon
        if in_plain_code() and far.all():
            return _sloped(g, difference(f(a), self) / distance)
        h, pullback = value_and_pullback(f, a)
        sloped = _sloped(g, difference(h, self) / torch.where(far, distance, 1.0))
        return torch.where(torch.cat([far, far]), sloped, pullback(g))


@dataclass(frozen=True)
class Ratio(BackwardRule):
    """g * f(a) / a: the identity rule of layer-wise relevance propagation, which conserves g * a.

    a times its cotangent is h times g. At a = 0 it is g * f'(0), PyTorch's choice at a kink and the ratio's limit where
    f is smooth and f(0) = 0; where f(0) is something else, as sigmoid's is, the ratio grows without bound near 0. At
    -inf it is 0 for ReLU and its kin; NaN where infinity is divided by infinity, and at NaN. Of complex numbers it is
    the ratio's conjugate, as for `Rescale`.
    Source: Achtibat et al. (2024), AttnLRP, proposition 3.1.

    Examples:
        >>> x = torch.tensor([-2.0, 2.0], requires_grad=True)
        >>> lb.with_rule(F.silu, lb.Ratio())(x).sum().backward()
        >>> x.grad  # silu(a) / a = sigmoid(a)
        tensor([0.1192, 0.8808])
    """

    formula = "g * f(a) / a"
    source = "LRP's identity rule; AttnLRP, Achtibat et al. (2024)"

    def cotangent(self, g: Tensor, a: Tensor, f: Elementwise) -> Tensor:
        """g times the ratio of h to a."""
        h, pullback = value_and_pullback(f, a)
        at_zero = a == 0
        return torch.where(at_zero, pullback(g), g * (h / torch.where(at_zero, 1.0, a)).conj())


def _sloped(g: Tensor, slope: Tensor) -> Tensor:
    """Both halves of g times the slope of their pair, or its conjugate, which for real numbers is the slope."""
    # Views, which PyTorch batches in every way; `unflatten` it does not.
    return (g.reshape(2, *slope.shape) * slope.conj()).reshape(g.shape)


def difference(values: Tensor, rule: object) -> Tensor:
    """The first half of a batch minus its second.

    Raises:
        LinearBackpropError: The first dimension has no two halves; the rule is named.
    """
    if values.dim() == 0 or values.shape[0] % 2:
        raise LinearBackpropError(
            f"{rule!r} needs inputs and their baselines as the two halves of the first dimension, got a tensor of "
            f"shape {tuple(values.shape)}; put the batch first, inputs before baselines"
        )
    inputs, baselines = values.chunk(2)
    return inputs - baselines


def keep_distance(rule: object, name: str) -> None:
    """Have a frozen rule's setting of this name be a plain float, refusing what is no distance."""
    keep_numbers(rule, name)
    if not getattr(rule, name) >= 0:
        raise LinearBackpropError(f"{type(rule).__name__}'s {name} must be 0 or more, got {getattr(rule, name)}")
