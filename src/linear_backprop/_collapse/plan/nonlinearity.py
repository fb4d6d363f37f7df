"""What follows a rule in a captured graph: its activations, and layers that a layer's rule is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from ..._call import Call
from ..._catalogue.activations import FORMS, Form
from ..._conversion.where import Predicate
from ..._rules.layers import rule_for
from ..._rules.rule import LayerRule
from ..._torch.functions import Function
from ..captured.graph import computes, function_of


@dataclass(frozen=True)
class NonLinearity:
    """An activation, or a layer under a layer's rule.

    Attributes:
        node: Its node.
        form: How the activation is called; None for a layer.
        layer: The layer's rule; None for an activation.
        own: The tensors of its own that take gradients, such as PReLU's weight: nodes.
    """

    node: fx.Node
    form: Form | None = None
    layer: LayerRule | None = None
    own: tuple[fx.Node, ...] = ()

    @property
    def function(self) -> Function:
        """The function that it calls."""
        return function_of(self.node)

    @property
    def input(self) -> fx.Node:
        """The node of its pre-activation."""
        return self.called(self.node.args, self.node.kwargs).input

    @property
    def emits(self) -> bool:
        """Whether its values have to be noted; those of a map that reproduces them need not."""
        return self.layer is None or not self.layer.reproduces_forward

    def called(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Its call, of some arguments."""
        return Call(self.function, tuple(args), dict(kwargs))

    def overwrites(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """True if the call overwrites its input."""
        call = self.called(args, kwargs)
        if self.layer is not None:
            return self.layer.overwrites_input(call)
        assert self.form is not None
        return self.form.overwrites_input(call)


@dataclass
class Selection:
    """What follows which rule.

    Attributes:
        model: The model.
        selects: Which modules' activations and layers follow their rules; None for all.
        layers: The rules of layers.
    """

    model: nn.Module
    selects: Predicate | None
    layers: Sequence[LayerRule]
    modules: dict[str, nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        self.modules = dict(self.model.named_modules(remove_duplicate=False))

    def takes(self, path: str) -> bool:
        """Whether a module of this path is selected."""
        return self.selects is None or (path in self.modules and bool(self.selects(path, self.modules[path])))


def nonlinearities_in(graph: fx.Graph, layers: Sequence[LayerRule]) -> Iterator[NonLinearity]:
    """The calls that may turn out to be non-linearities, by their functions alone."""
    for node in graph.nodes:
        if not computes(node):
            continue
        function = function_of(node)
        layer = rule_for(function, layers)
        if layer is not None or function in FORMS:
            yield NonLinearity(node, form=FORMS.get(function), layer=layer)


def linear_map_of(nonlinearity: NonLinearity, traced: Mapping[fx.Node, Any]) -> Callable[[Mapping[fx.Node, Any]], Any]:
    """The map of a layer's rule as an operation, with the constants of the traced run."""
    node, layer = nonlinearity.node, nonlinearity.layer
    assert layer is not None

    def called(values: Mapping[fx.Node, Any]) -> Call:
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)  # pyright: ignore
        return nonlinearity.called(args, kwargs)

    with torch.no_grad():
        constants = layer.constants(called({arg: traced[arg][0] for arg in node.all_input_nodes}))

    def run(values: Mapping[fx.Node, Any]) -> Any:
        call = called(values)
        return layer.linear_map(call, tuple(c.to(call.input.dtype) for c in constants))

    return run
