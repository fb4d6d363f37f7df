"""What follows a rule in a captured graph: its activations, and layers that a layer's rule is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..._call import Call
from ..._catalogue.activations import FORMS, Form
from ..._conversion.where import Predicate
from ..._rules.layers import rule_for
from ..._rules.rule import LayerRule
from ..._torch.functions import Function
from ..captured.graph import computes, function_of
from .emission import beside


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

    def call(self, value: Callable[[fx.Node], Any]) -> Call:
        """Its call, of what is given for the nodes that it reads."""
        args, kwargs = fx.map_arg((self.node.args, self.node.kwargs), value)  # pyright: ignore
        return self.called(args, kwargs)

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
    layer = nonlinearity.layer
    assert layer is not None
    with torch.no_grad():
        constants = layer.constants(nonlinearity.call(lambda arg: traced[arg][0]))

    def run(values: Mapping[fx.Node, Any]) -> Any:
        call = nonlinearity.call(values.__getitem__)
        return layer.linear_map(call, tuple(c.to(call.input.dtype) for c in constants))

    return run


def emission_of(nonlinearity: NonLinearity) -> Callable[[Mapping[fx.Node, Any]], Any] | None:
    """What an activation does with tensors beside its input, as an operation; None for one that has no such.

    What it puts out is as large as they are together, and the derivatives by those of its own go to entries that must
    be the same for every sample: if it is affine in each sample, so is this product.
    """
    form = nonlinearity.form
    assert form is not None
    if len(nonlinearity.node.all_input_nodes) < 2:
        return None

    def run(values: Mapping[fx.Node, Any]) -> Any:
        call = nonlinearity.call(values.__getitem__)
        h = call.input
        if form.broadcasts:
            beside_it = [t for t in (*call.rest, *call.keywords.values()) if isinstance(t, Tensor)]
            h = h.expand(torch.broadcast_shapes(h.shape, *(t.shape for t in beside_it)))
        for p in nonlinearity.own:
            h = h * beside(values[p], h, not form.broadcasts)
        return h * 1  # not the very input

    return run
