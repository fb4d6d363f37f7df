"""Guided backpropagation and the deconvnet on any model: the input's gradient under a rule."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import nn

from .._rules import attribution as rules
from .._rules.rule import BackwardRule
from ._arguments import Target, Tensors, as_tuple, further, like, targets_of
from ._ruled import RuledAttribution, RuledPass, gradients, leaves_of


class _GradientUnderARule(RuledAttribution):
    """The gradient of a chosen output by the inputs, every elementwise activation following one rule."""

    rule: ClassVar[BackwardRule]

    def __init__(self, model: nn.Module) -> None:
        super().__init__(RuledPass(model, self.rule))
        self._warned = False

    @torch.inference_mode(False)
    def attribute(self, inputs: Tensors, target: Target = None, additional_forward_args: Any = None) -> Any:
        """The attributions, in the structure of the inputs.

        Args:
            inputs: A tensor or a tuple of tensors, the batch first: the model's first arguments.
            target: The output that is explained: None where the model has one per sample, a class, an index tuple, or
                one for each sample.
            additional_forward_args: The model's further arguments, one or a tuple of them.

        Raises:
            LinearBackpropError: An argument does not fit.
        """
        given = as_tuple(inputs)
        leaves = leaves_of(given)
        chosen = self._pass.outputs(leaves, further(additional_forward_args), targets_of(target, len(given[0])))
        attributions = gradients(chosen, leaves, explained=len(given[0]))
        if not self._warned and (left := self._pass.left_alone()):
            self._warned = True
            warnings.warn(f"kept its own gradient: {', '.join(left)}", stacklevel=3)
        return like(inputs, attributions)


class GuidedBackprop(_GradientUnderARule):
    """Guided backpropagation: the input's gradient under `Guided`, at every elementwise activation.

    captum's is for `nn.ReLU` modules alone; on these the numbers are the same. Source: Springenberg et al. (2015).

    Args:
        model: Any module, in eval mode, which a warning asks for where it matters; left as it is, gradients included.

    Raises:
        LinearBackpropError: `model` is no module.

    Examples:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> lb.attribution.GuidedBackprop(model).attribute(torch.randn(5, 3), target=1).shape
        torch.Size([5, 3])
    """

    rule = rules.Guided()


class Deconvolution(_GradientUnderARule):
    """The deconvnet: the input's gradient under the rule `Deconvolution`, at every elementwise activation.

    captum's is for `nn.ReLU` modules alone; on these the numbers are the same. Source: Zeiler and Fergus (2014).

    Args:
        model: Any module, in eval mode, which a warning asks for where it matters; left as it is, gradients included.

    Raises:
        LinearBackpropError: `model` is no module.

    Examples:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> lb.attribution.Deconvolution(model).attribute(torch.randn(5, 3), target=1).shape
        torch.Size([5, 3])
    """

    rule = rules.Deconvolution()
