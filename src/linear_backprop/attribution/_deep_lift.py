"""DeepLIFT on any model."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .._rules.attribution import Rescale
from .._rules.rescaled_maximum import RescaledMaximum
from ._arguments import Baselines, Target, Tensors, as_tuple, baselines_of, doubled, further, like, targets_of
from ._ruled import RuledAttribution, RuledPass, gradients, leaves_of

_UNNAMED = (
    "a product of activations, a maximum by amax, max or maximum, a function of several numbers (a norm, std, "
    "logsumexp, sort), an activation written out in arithmetic, in TorchScript or with a rule of its own, what runs "
    "under no_grad, a batch that is not the first dimension, or a model in training mode"
)


class DeepLift(RuledAttribution):
    """DeepLIFT, the Rescale rule: what each input adds to the difference between an output and its baseline's.

    attribution = multiplier * (input - baseline), where the multiplier is the gradient under `Rescale` and, for max
    pooling, `RescaledMaximum`. The attributions of a sample sum to F(input) - F(baseline) on every model whose
    non-linearities are elementwise or `max_pool` and `adaptive_max_pool`, in whatever form they are called. A maximum
    by `amax`, `max` or `maximum` keeps its own gradient. Put the model in eval mode.

    Where something else keeps its own gradient (softmax, normalization by the sample, products of activations) the sum
    is off, and a warning says by how much and names what is known by name. Inputs and baselines run as one batch, so
    another warning tells of a model in which samples depend on each other: the first call, and every one that returns
    delta, runs the model on each by itself, too. Source: Shrikumar et al. (2017).

    Args:
        model: Any module whose first dimension is the batch, in eval mode, which a warning asks for where it matters;
            left as it is, gradients included.
        multiply_by_inputs: False for the multipliers alone.
        eps: As in `Rescale` and `RescaledMaximum`; as small as captum's, because networks may have small activations.

    Raises:
        LinearBackpropError: `model` is no module, or `eps` is negative.

    Examples:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
        >>> x = torch.randn(5, 3)
        >>> attributions = lb.attribution.DeepLift(model).attribute(x, target=1)
        >>> difference = model(x)[:, 1] - model(torch.zeros(5, 3))[:, 1]
        >>> torch.allclose(attributions.sum(1), difference, atol=1e-5)
        True
    """

    def __init__(self, model: nn.Module, multiply_by_inputs: bool = True, eps: float = 1e-10) -> None:
        super().__init__(RuledPass(model, Rescale(eps), (RescaledMaximum(eps),)))
        self.multiplies_by_inputs = multiply_by_inputs
        self._warned = self._compared = False

    @torch.inference_mode(False)
    def attribute(
        self,
        inputs: Tensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """The attributions, and with `return_convergence_delta` how far their sums are off.

        Args:
            inputs: A tensor or a tuple of tensors, the batch first: the model's first arguments.
            baselines: For each input a tensor of its shape, or of one sample's, or a number; None for 0.
            target: The output that is explained: None where the model has one per sample, a class, an index tuple, or
                one for each sample.
            additional_forward_args: The model's further arguments; tensors of the batch's length go with the baselines,
                too, while those in lists and dicts are handed on as they are.
            return_convergence_delta: True for the deltas beside the attributions.

        Returns:
            The attributions in the structure of the inputs; and delta = sum of multiplier * (input - baseline) -
            (F(input) - F(baseline)), shape (N,), F being the model without rules, run on either alone.

        Raises:
            LinearBackpropError: An argument does not fit, or the batch is not first everywhere in the model.
        """
        given = as_tuple(inputs)
        samples = len(given[0])
        targets = targets_of(target, samples)
        leaves = leaves_of(tuple(torch.cat(pair) for pair in zip(given, baselines_of(given, baselines), strict=True)))
        arguments = further(additional_forward_args)
        chosen = self._pass.outputs(leaves, doubled(arguments, samples), targets and targets * 2)
        multipliers = tuple(each[:samples] for each in gradients(chosen, leaves, explained=samples))
        with torch.no_grad():
            contributions = tuple(m * (x[:samples] - x[samples:]) for m, x in zip(multipliers, leaves, strict=True))
            apart = chosen
            if return_convergence_delta or not self._compared:
                halves = tuple(x[:samples] for x in leaves), tuple(x[samples:] for x in leaves)
                apart = torch.cat([self._pass.outputs_without_rules(half, arguments, targets) for half in halves])
                self._compared = not all(map(torch.equal, *halves))
            delta = _sums(contributions) - (apart[:samples] - apart[samples:])
            self._warn_once(delta, chosen, apart, contributions)
        attributions = like(inputs, contributions if self.multiplies_by_inputs else multipliers)
        return (attributions, delta) if return_convergence_delta else attributions

    def has_convergence_delta(self) -> bool:
        """True: `attribute` takes `return_convergence_delta`."""
        return True

    def _warn_once(self, delta: Tensor, chosen: Tensor, apart: Tensor, contributions: tuple[Tensor, ...]) -> None:
        """Say by how much the sums are off, and what may be why, where rounding is not."""
        if self._warned or not len(delta):
            return
        off, between = delta.abs().max().item(), (chosen - apart).abs().max().item()
        rounding = _rounding(chosen, contributions)
        depends = bool(((chosen - apart).abs() > torch.cat([rounding, rounding])).any())
        if not depends and bool((delta.abs() <= rounding).all()) and math.isfinite(off):
            return
        self._warned = True
        if not math.isfinite(off):
            message = "the attributions' sums are not finite: an input, an output or a slope between them is not"
        elif depends:
            message = (
                f"the output of a sample depends on the rest of the batch, or on chance, by up to {between:.2g}, and "
                f"inputs and baselines run as one batch: the attributions' sums are off by up to {off:.2g}; let the "
                f"model treat each sample by itself"
            )
        else:
            why = ", ".join([*self._pass.left_alone(), _UNNAMED])
            message = f"the attributions' sums are off by up to {off:.2g}; what may have kept its own gradient: {why}"
        warnings.warn(message, stacklevel=4)  # its caller's, by way of `attribute` and its decorator


def _rounding(outputs: Tensor, contributions: tuple[Tensor, ...]) -> Tensor:
    """How far rounding may take each sample's sum off: a part of what is added up, a smaller one of the outputs."""
    added, (of_inputs, of_baselines) = _sums(tuple(each.abs() for each in contributions)), outputs.abs().chunk(2)
    eps = torch.finfo(outputs.dtype).eps
    return eps**0.5 * added + min(eps**0.5, 256 * eps) * torch.maximum(of_inputs, of_baselines)


def _sums(contributions: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([each.flatten(1).sum(1) if each.dim() > 1 else each for each in contributions]).sum(0)
