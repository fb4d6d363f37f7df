"""The multi-layer perceptron of the paper's figure 1: one network, or many of them as one batched model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Build Linear layers with an activation between any two of them, PyTorch's default initialisation.

    Args:
        widths: Inputs, units of each hidden layer, outputs: `(1, 50, 50, 50, 50, 1)` is figure 1's.
        activation: Makes one activation module; called once a hidden layer.

    Returns:
        float32 (samples, widths[0]) -> (samples, widths[-1]).

    Raises:
        ValueError: There are fewer than two widths, or one is not positive.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be two or more positive numbers, got {tuple(widths)}")
    layers = [nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths)]
    hidden = itertools.chain.from_iterable((layer, activation()) for layer in layers[:-1])
    return nn.Sequential(*hidden, layers[-1])


@dataclass(frozen=True, eq=False)
class HiddenUnits:
    """What the hidden layers of N networks hold for some samples.

    Attributes:
        pre_activations: a of every hidden layer, each (N, samples, units).
        activations: h = f(a) of every hidden layer, each (N, samples, units).
        output: (N, samples, outputs).
    """

    pre_activations: tuple[Tensor, ...]
    activations: tuple[Tensor, ...]
    output: Tensor


class MLPEnsemble(nn.Module):
    """N networks of one shape as one model: a = h W^T + b with a leading axis N, one batched product a layer.

    Args:
        weights: W^T of every layer, each (N, inputs, outputs): the gradient of a batched product then lies in
            memory as its parameter does, and training copies none.
        biases: b of every layer, each (N, outputs).
        activation: f, elementwise; `with_rule(torch.tanh, rule)` puts a backward rule in.
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        biases: Iterable[Tensor],
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(biases)
        self._activation = activation

    @classmethod
    def from_seeds(
        cls,
        widths: Sequence[int],
        activation: Callable[[Tensor], Tensor],
        seeds: Sequence[int],
    ) -> MLPEnsemble:
        """Network n is, to the bit, what `mlp(widths, ...)` builds after `torch.manual_seed(seeds[n])`.

        Raises:
            ValueError: `seeds` is empty, or `mlp` refuses `widths`.
        """
        if not seeds:
            raise ValueError("seeds is empty; give one seed a network")
        networks = [_seeded_layers(widths, seed) for seed in seeds]
        layers = list(zip(*networks, strict=True))
        return cls(
            [torch.stack([layer.weight.detach().T for layer in same]) for same in layers],
            [torch.stack([layer.bias.detach() for layer in same]) for same in layers],
            activation,
        )

    def forward(self, x: Tensor) -> Tensor:
        """The outputs for samples that all networks see: (samples, inputs) -> (N, samples, outputs)."""
        return self.units(x).output

    def units(self, x: Tensor) -> HiddenUnits:
        """Every hidden layer's pre-activations and activations for `x`, (samples, inputs)."""
        h = x.expand(self.weights[0].shape[0], *x.shape)
        pre_activations: list[Tensor] = []
        activations: list[Tensor] = []
        *hidden, last = zip(self.weights, self.biases, strict=True)
        for weight, bias in hidden:
            a = _affine(h, weight, bias)
            h = self._activation(a)
            pre_activations.append(a)
            activations.append(h)
        return HiddenUnits(tuple(pre_activations), tuple(activations), _affine(h, *last))


def _affine(h: Tensor, transposed_weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias.unsqueeze(1), h, transposed_weight)


def _seeded_layers(widths: Sequence[int], seed: int) -> list[nn.Linear]:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return [layer for layer in mlp(widths, nn.Identity) if isinstance(layer, nn.Linear)]
