"""The update of a small MLP as a function of its parameters, written out, and how far it is from a gradient.

A smooth field is the gradient of some function if and only if its Jacobian is symmetric (on a region without holes).
The update is written as Algorithm 2 has it and differentiated as any other function: differentiating the rule's own
backward pass would follow the rule once more, in place of the chain rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_STEP = 1e-6  # Of central differences in float64.


@dataclass(frozen=True, eq=False)
class Problem:
    """An MLP on some points, to be trained by half the mean squared error.

    The parameters are one vector, (P,): of every layer from the input on, W row by row, then b.

    Attributes:
        widths: Inputs, units of each hidden layer, outputs.
        activation: f, elementwise.
        multiplies: Whether the cotangent is multiplied by f'(a), as in Backprop; Linear Backprop leaves it as it is.
        inputs: (N, widths[0]).
        targets: (N, widths[-1]).
    """

    widths: Sequence[int]
    activation: Callable[[Tensor], Tensor]
    multiplies: bool
    inputs: Tensor
    targets: Tensor

    def loss(self, parameters: Tensor) -> Tensor:
        """Half the mean over points of the squared error, a scalar."""
        return (self._forward(parameters)[1][-1] - self.targets).square().sum(1).mean() / 2

    def update(self, parameters: Tensor) -> Tensor:
        """What the rule gives in place of the loss's gradient: (P,) to (P,)."""
        layers = self._layers(parameters)
        pre_activations, held = self._forward(parameters)
        delta = (held[-1] - self.targets) / len(self.inputs)
        parts: list[Tensor] = []
        for depth in reversed(range(len(layers))):
            parts = [(delta.T @ held[depth]).flatten(), delta.sum(0), *parts]
            if depth:
                delta = delta @ layers[depth][0]
                delta = delta * self._slope(pre_activations[depth - 1]) if self.multiplies else delta
        return torch.cat(parts)

    def mean_slopes(self, parameters: Tensor) -> Tensor:
        """For every parameter, the product of the mean f'(a) of each activation above it: (P,)."""
        means = torch.stack([self._slope(a).mean() for a in self._forward(parameters)[0]])
        products = torch.cat([means.flip(0).cumprod(0).flip(0), torch.ones_like(means[:1])])
        counts = torch.tensor([(below + 1) * above for below, above in itertools.pairwise(self.widths)])
        return products.repeat_interleave(counts, output_size=len(parameters))

    def _layers(self, parameters: Tensor) -> list[tuple[Tensor, Tensor]]:
        """W and b of every layer."""
        shapes = [shape for below, above in itertools.pairwise(self.widths) for shape in ((above, below), (above,))]
        flat = parameters.split([torch.Size(shape).numel() for shape in shapes])
        parts = [part.view(shape) for part, shape in zip(flat, shapes, strict=True)]
        return list(zip(parts[::2], parts[1::2], strict=True))

    def _forward(self, parameters: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Every a; and the inputs, every h, and the output."""
        pre_activations: list[Tensor] = []
        held = [self.inputs]
        for weight, bias in self._layers(parameters):
            pre_activations.append(held[-1] @ weight.T + bias)
            held.append(self.activation(pre_activations[-1]))
        return pre_activations[:-1], [*held[:-1], pre_activations[-1]]

    def _slope(self, pre_activation: Tensor) -> Tensor:
        """f'(a)."""
        return torch.func.jvp(self.activation, (pre_activation,), (torch.ones_like(pre_activation),))[1]


def jacobian(problem: Problem, parameters: Tensor) -> Tensor:
    """Of the update: (P, P), a row an entry of the update, exact to rounding."""
    return torch.func.jacfwd(problem.update)(parameters)


def by_differences(problem: Problem, parameters: Tensor) -> Tensor:
    """The same by central differences."""
    steps = _STEP * torch.eye(len(parameters), dtype=parameters.dtype)
    return torch.func.vmap(
        lambda step: (problem.update(parameters + step) - problem.update(parameters - step)) / (2 * _STEP), out_dims=1
    )(steps)


def asymmetry(matrices: Tensor) -> Tensor:
    """The Frobenius norm of the antisymmetric part over the symmetric part's: (..., P, P) to (...); 0 of a gradient."""
    return torch.linalg.matrix_norm(matrices - matrices.mT) / torch.linalg.matrix_norm(matrices + matrices.mT)
