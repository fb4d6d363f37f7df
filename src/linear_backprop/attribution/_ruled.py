"""A model's forward pass under a rule, and what in it kept its own gradient."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.overrides import BaseTorchFunctionMode

from .._catalogue.not_elementwise import FUNCTIONS, left_alone
from .._conversion.block import RuleMode
from .._conversion.classify import Kind, classify, classify_function, classify_scripted_functions, is_scripted
from .._conversion.patch import Patches, WrittenOutPatch, is_converted, remove_all
from .._conversion.report import NOT_RECORDED
from .._errors import LinearBackpropError
from .._rules.rule import BackwardRule, LayerRule
from .._torch.functions import Function
from .._torch.modules import differs_in_training
from .._torch.recording import is_recorded
from ._arguments import selected

_LIBRARY = __name__.partition(".")[0]
_PATCHING = threading.RLock()  # one thread at a time puts patches on a model
_OF_ONES_OWN = "a torch.autograd.Function, whose own backward pass stays"


class RuledPass:
    """Forward passes of a model under rules, the model itself being left alone.

    The rules hold for whatever is called while the model runs. Nothing is put on the model but, while it runs, on the
    activations that `transformers` writes out in arithmetic.

    Args:
        model: The model.
        rule: The rule of activations.
        layers: The rules of layers.

    Raises:
        LinearBackpropError: `model` is no module, or is under a conversion.
    """

    def __init__(self, model: nn.Module, rule: BackwardRule, layers: tuple[LayerRule, ...] = ()) -> None:
        if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LinearBackpropError(f"attribution needs a module, got {model!r}")
        self.model, self.rule, self.layers = model, rule, layers
        self._called: dict[Function, set[bool]] = {}  # True where autograd recorded it
        self._own_functions: set[str] = set()
        self._told_of_training = False

    def outputs(
        self, inputs: tuple[Tensor, ...], arguments: tuple[Any, ...], targets: list[tuple[int, ...]] | None
    ) -> Tensor:
        """The one output of every sample that is explained, differentiable by the inputs."""
        self._warn_once_of_training()
        with torch.enable_grad():
            with self._written_out_under_the_rule(), RuleMode(self.rule, self.layers, observe=self._observe):
                # Copies, lest a model whose first operation is in place writes into a leaf.
                outputs = self.model(*(x.clone() for x in inputs), *arguments)
            chosen = selected(outputs, targets, len(inputs[0]))
        self._own_functions.update(_functions_of_ones_own(chosen))
        return chosen

    def outputs_without_rules(
        self, inputs: tuple[Tensor, ...], arguments: tuple[Any, ...], targets: list[tuple[int, ...]] | None
    ) -> Tensor:
        """The same outputs of the model as it is, without a graph."""
        # Under a mode PyTorch leaves its transformers' fast paths, which have other numbers where a sequence is padded.
        with torch.no_grad(), BaseTorchFunctionMode():
            return selected(self.model(*(x.clone() for x in inputs), *arguments), targets, len(inputs[0]))

    def left_alone(self) -> list[str]:
        """What the model called, or holds, that kept its own gradient, each with the reason."""
        found = self._scripted | dict.fromkeys(sorted(self._own_functions), _OF_ONES_OWN)
        for function, recorded in self._called.items():
            advice = left_alone(FUNCTIONS.get(function), layers=True)
            classified = classify_function(function, self.layers)
            reason = (advice.reason if advice else classified.reason) if True in recorded else ""
            if classified.kind is Kind.ACTIVATION and False in recorded:
                reason = NOT_RECORDED
            if reason:
                found.setdefault(function.__name__, reason)
        return [f"{name} ({reason})" for name, reason in found.items()]

    @cached_property
    def _scripted(self) -> dict[str, str]:
        """The modules and functions in TorchScript that the model's code names, each with the reason."""
        found: dict[str, str] = {}
        for module in self.model.modules():
            classified = classify(module, self.layers)
            if is_scripted(module):
                found[type(module).__name__] = classified.reason
            elif classified.kind is Kind.OPAQUE:
                found |= {name: function.reason for name, function in classify_scripted_functions(module)}
        return found

    @contextmanager
    def _written_out_under_the_rule(self) -> Generator[None]:
        """A context in which activations that are written out in arithmetic, and known, follow the rule as a whole."""
        modules = self.model.named_modules()
        written_out = [each for each in modules if classify(each[1], ()).kind is Kind.WRITTEN_OUT]
        with _PATCHING if written_out else nullcontext():
            if is_converted(self.model):
                raise LinearBackpropError(
                    "the model is under a conversion, whose rules its activations would follow; remove() it first"
                )
            patches = Patches(self.rule, ())
            try:
                for path, module in written_out:
                    patches.put(WrittenOutPatch(module, path, patches, selected=True))
                yield
            finally:
                remove_all(patches.placed)

    def _warn_once_of_training(self) -> None:
        training = (path for path, module in self.model.named_modules() if differs_in_training(module))
        if self._told_of_training or (path := next(training, None)) is None:
            return
        self._told_of_training = True
        warnings.warn(
            f"{f'module {path!r} of the model' if path else 'the model'} is in training mode: the attribution is of a "
            f"model whose batch statistics change, or whose units are dropped at random; call model.eval() first",
            stacklevel=5,  # the caller's of `attribute`, by way of `outputs` and a decorator
        )

    def _observe(self, function: Function) -> None:
        self._called.setdefault(function, set()).add(is_recorded())


class RuledAttribution:
    """A ruled pass, with what captum's wrappers, such as its `NoiseTunnel`, ask of an attribution."""

    multiplies_by_inputs = False

    def __init__(self, ruled_pass: RuledPass) -> None:
        self._pass = ruled_pass

    @property
    def forward_func(self) -> nn.Module:
        """The model."""
        return self._pass.model

    def has_convergence_delta(self) -> bool:
        """True if `attribute` takes `return_convergence_delta`."""
        return False


def _functions_of_ones_own(outputs: Tensor) -> Iterator[str]:
    """The names of the `torch.autograd.Function`s behind outputs that are neither PyTorch's nor this library's."""
    seen, waiting = set[Any](), [outputs.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [below for below, _ in node.next_functions]
        if isinstance(node, BackwardCFunction):
            function: type = node._forward_cls  # pyright: ignore[reportAttributeAccessIssue]
            if function.__module__.partition(".")[0] not in ("torch", _LIBRARY):
                yield function.__name__


def leaves_of(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs as leaves of a graph of their own."""
    # A tensor made in inference mode can be no leaf.
    return tuple((x.clone() if x.is_inference() else x.detach()).requires_grad_() for x in inputs)


def gradients(chosen: Tensor, leaves: tuple[Tensor, ...], explained: int) -> tuple[Tensor, ...]:
    """The gradient of the first `explained` outputs' sum by each leaf, zero where none reaches it.

    No `.grad` is touched.
    """
    if not chosen.requires_grad:
        raise LinearBackpropError("the model's output does not depend on the inputs in a differentiable way")
    g = torch.zeros_like(chosen)
    g[:explained] = 1
    return torch.autograd.grad(chosen, leaves, g, allow_unused=True, materialize_grads=True)
