"""The elementwise backward rules.

Legend: `a` is the pre-activation, `h` = f(a) the activation, `g` the cotangent that h receives. Every rule says what
cotangent goes on to a.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._catalogue.activations import activation_named, name_of
from .._catalogue.not_elementwise import refuse_known
from .._errors import LinearBackpropError, described, function_name, require_whole_number, why_not_called_with
from .rule import BackwardRule, Elementwise, keep_numbers, require_elementwise


def value_and_pullback(f: Elementwise, a: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """f(a), and the function from a cotangent g of it to the true cotangent of a, g * f'(a)."""
    h, pullback, *_ = torch.func.vjp(f, a)
    return h, lambda g: pullback(g)[0]


def vector_jacobian_product(f: Elementwise, a: Tensor, g: Tensor) -> Tensor:
    """The true cotangent of a, g * f'(a), from PyTorch's own derivative of f."""
    return value_and_pullback(f, a)[1](g)


@dataclass(frozen=True)
class Exact(BackwardRule):
    """Backprop: the true derivative, g * f'(a), run by PyTorch's own kernels.

    At a kink it is PyTorch's choice of subgradient, listed per kink in the catalogue.
    Source: Yazdani (2018), Algorithm 1.

    Examples:
        >>> x = torch.tensor([-2.0, 2.0], requires_grad=True)
        >>> with lb.backward_rule(lb.Linear()):
        ...     with lb.backward_rule(lb.Exact()):  # Backprop again, inside
        ...         x.relu().sum().backward()
        >>> x.grad
        tensor([0., 1.])
    """

    formula = "g * f'(a)"
    source = "Backprop; Yazdani (2018), Algorithm 1"

    def cotangent(self, g: Tensor, a: Tensor, f: Elementwise) -> Tensor:
        """g * f'(a)."""
        return vector_jacobian_product(f, a, g)


@dataclass(frozen=True)
class Linear(BackwardRule):
    """Linear Backprop: g unchanged, as if f were the identity; straight-through for any f.

    Saves nothing for the backward pass and runs no backward kernel. The same everywhere: at kinks,
    infinities and NaN the cotangent is g. Source: Yazdani (2018), title, abstract and prose.

    Examples:
        >>> x = torch.tensor([-2.0, 2.0], requires_grad=True)
        >>> lb.with_rule(torch.relu, lb.Linear())(x).sum().backward()
        >>> x.grad
        tensor([1., 1.])
    """

    formula = "g"
    source = "Linear Backprop; Yazdani (2018), as described in the text"

    def cotangent(self, g: Tensor, a: Tensor | None, f: Elementwise | None) -> Tensor:
        """g itself."""
        return g

    @property
    def uses_pre_activation(self) -> bool:
        """False: the pre-activation is not kept."""
        return False


@dataclass(frozen=True)
class PreActivation(BackwardRule):
    """g * a: Algorithm 2 as it is printed, which its prose contradicts; see `Linear`.

    At a = +-inf the cotangent is +-inf (NaN where g = 0); NaN at NaN.
    Source: Yazdani (2018), Algorithm 2, the line g <- g * a^(k).

    Examples:
        >>> x = torch.tensor([-2.0, 2.0], requires_grad=True)
        >>> lb.with_rule(torch.relu, lb.PreActivation())(x).sum().backward()
        >>> x.grad
        tensor([-2.,  2.])
    """

    formula = "g * a"
    source = "Yazdani (2018), Algorithm 2 as printed"

    def cotangent(self, g: Tensor, a: Tensor, f: Elementwise) -> Tensor:
        """g * a."""
        return g * a


@dataclass(frozen=True)
class Clipped(BackwardRule):
    """g where low <= a <= high, else 0: the straight-through estimator of binarized networks.

    Both bounds belong to the passing interval. Outside it, and at NaN, the cotangent is 0.
    Source: Courbariaux et al. (2016), equation 4, with low, high = -1, 1.

    Raises:
        LinearBackpropError: low or high is no number, or low is not below high.

    Examples:
        >>> x = torch.tensor([-2.0, 0.5, 2.0], requires_grad=True)
        >>> lb.with_rule(torch.sign, lb.Clipped())(x).sum().backward()
        >>> x.grad
        tensor([0., 1., 0.])
    """

    formula = "g if low <= a <= high else 0"
    source = "Courbariaux et al. (2016), eq. 4"

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        keep_numbers(self, "low", "high")
        if not self.low < self.high:
            raise LinearBackpropError(
                f"Clipped needs low < high, got low={self.low}, high={self.high}; swap or widen them"
            )

    def cotangent(self, g: Tensor, a: Tensor, f: Elementwise) -> Tensor:
        """g where low <= a <= high, else 0."""
        return torch.where((a >= self.low) & (a <= self.high), g, 0.0)

    @property
    def takes_complex(self) -> bool:
        """False: it compares."""
        return False


@dataclass(frozen=True)
class Surrogate(BackwardRule):
    """g * function'(a): the derivative of another function in place of f's.

    Kinks, infinities and NaN are those of `function`'s own derivative in PyTorch.
    Source: surrogate gradients (Neftci et al., 2019); `Surrogate("silu")` for ReLU is the backward
    pass of BPA (Wang et al., 2023).

    Args:
        function: A catalogue name such as "silu", or any differentiable elementwise function. A
            catalogued function is kept by its name, so `Surrogate(F.silu) == Surrogate("silu")`, as are in-place forms.

    Raises:
        LinearBackpropError: The name is not in the catalogue, `function` cannot be called with the pre-activation
            alone, as prelu, threshold and clamp cannot, or is known not to be elementwise, as softmax. At the backward
            pass: it makes something else than one tensor of a's shape and a floating dtype.

    Examples:
        >>> x = torch.tensor([-2.0, 2.0], requires_grad=True)
        >>> lb.with_rule(torch.relu, lb.Surrogate("sigmoid"))(x).sum().backward()
        >>> x.grad
        tensor([0.1050, 0.1050])
    """

    formula = "g * function'(a)"
    source = "surrogate gradients; Neftci et al. (2019)"

    function: str | Elementwise

    def __post_init__(self) -> None:
        object.__setattr__(self, "function", _name_or_own(self.function))

    def cotangent(self, g: Tensor, a: Tensor, f: Elementwise) -> Tensor:
        """g * function'(a)."""
        own = self.function
        if isinstance(own, str):
            return vector_jacobian_product(activation_named(own).function, a, g)

        def function(z: Tensor) -> Tensor:
            h = own(z.clone())  # which it may overwrite
            require_elementwise(own, z, h, "Surrogate")
            return h

        return vector_jacobian_product(function, a, g)

    @property
    def takes_complex(self) -> bool:
        """True if the activation of that name has a complex derivative, and for any other function."""
        return not isinstance(self.function, str) or activation_named(self.function).takes_complex

    def __repr__(self) -> str:
        function = self.function
        text = repr(function) if isinstance(function, str) else function_name(function)
        return f"Surrogate(function={text})"


@dataclass(frozen=True)
class MeanLinear(BackwardRule):
    """g times the mean of f'(a) over the batch, per unit: the best linear map of its kind.

    Best in the sense of least squares over the batch, among the diagonal maps that are the same for every
    sample. The mean is over all dimensions but `units`: over the samples, and in convolutions over the
    positions, too. It is of the batch it sees: a micro-batch's, and under DDP a worker's; `collapse` with a
    `process_group` takes the mean over all workers.
    Kinks, infinities and NaN are those of f's own derivative in PyTorch.

    Args:
        units: The dimension that counts units (channels): 1 for (N, features) and (N, channels, ...),
            -1 for tokens, (N, tokens, features).

    Raises:
        LinearBackpropError: `units` is no whole number; at the backward pass: a has no such dimension, or no other to
            take the mean over.

    Examples:
        >>> x = torch.tensor([[-2.0], [2.0]], requires_grad=True)  # two samples of one unit
        >>> lb.with_rule(torch.relu, lb.MeanLinear())(x).sum().backward()
        >>> x.grad.tolist()
        [[0.5], [0.5]]
    """

    formula = "g * mean of f'(a) over the batch, per unit"
    source = "the sample-independent map nearest to Backprop's"

    units: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", require_whole_number(self.units, "MeanLinear's units"))

    def cotangent(self, g: Tensor, a: Tensor, f: Elementwise) -> Tensor:
        """g times the mean slope of each unit."""
        return g * self.slope(a, f)

    def slope(self, a: Tensor, f: Elementwise) -> Tensor:
        """The mean of f'(a) of each unit; every dimension but the units' has size 1."""
        return self.mean(vector_jacobian_product(f, a, torch.ones_like(a)))

    def mean(self, derivatives: Tensor) -> Tensor:
        """The mean over all dimensions but the units', which keep size 1."""
        dims = derivatives.dim()
        if dims < 2 or not -dims <= self.units < dims:
            raise LinearBackpropError(
                f"MeanLinear(units={self.units}) needs a batch dimension and a dimension {self.units} for the units, "
                f"got a pre-activation of shape {tuple(derivatives.shape)}"
            )
        return derivatives.mean([dim for dim in range(dims) if dim != self.units % dims], keepdim=True)


def _name_or_own(function: str | Elementwise) -> str | Elementwise:
    """An activation's name, or a function that is not catalogued, as far as it can be checked without running it."""
    if not isinstance(function, str) and (isinstance(function, type) or not callable(function)):
        raise LinearBackpropError(
            f"Surrogate needs a function or an activation's name, got {described(function)}; give one such as "
            f"torch.sigmoid or 'sigmoid'"
        )
    function = function if isinstance(function, str) else name_of(function) or function
    if isinstance(function, str):
        if not activation_named(function).has_defaults:
            raise _of_more_than_a(function, "which needs further arguments")
        return function
    refuse_known(function, "Surrogate")
    if error := why_not_called_with(function, None):
        raise _of_more_than_a(described(function), f"which cannot be called with it ({error})")
    return function


def _of_more_than_a(function: str, why: str) -> LinearBackpropError:
    return LinearBackpropError(
        f"Surrogate needs a function of the pre-activation alone, got {function}, {why}; give what it lacks, as in "
        f"Surrogate(lambda a: torch.clamp(a, -1, 1))"
    )
