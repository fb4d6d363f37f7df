"""The graph that Dynamo captures of a model: its operations, and new graphs made of some of them."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from ..._torch.functions import ENTER_AUTOCAST, EXIT_AUTOCAST, SET_GRAD_ENABLED, Function
from ..._torch.recording import saved_tensors_may_have_hooks

_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), "<")
_RULES = str(Path(__file__).parents[2] / "_conversion")
_numbers = count()
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in .*\n\s+(?P<code>.+)')


def function_of(node: fx.Node) -> Function:
    """The function that a node calls: as `torch` has it, or the method of `Tensor`."""
    return getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target  # pyright: ignore


def is_mode(node: fx.Node) -> bool:
    """Whether the node sets a mode for those that follow, grad mode or autocast, and computes nothing."""
    return node.op == "call_function" and (node.target in (SET_GRAD_ENABLED, ENTER_AUTOCAST, EXIT_AUTOCAST))


def computes(node: fx.Node) -> bool:
    """Whether the node is an operation."""
    return node.op in ("call_function", "call_method") and not is_mode(node)


def run_node(node: fx.Node, values: Mapping[fx.Node, Any], owner: nn.Module) -> Any:
    """The node's value, given those of the nodes that it reads."""
    if node.op == "get_attr":
        found: Any = owner
        for name in str(node.target).split("."):
            found = getattr(found, name)
        return found
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors in a value of any structure."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def inputs_of(graph: fx.Graph) -> list[fx.Node]:
    """The nodes whose values a graph is given, in order."""
    return list(graph.find_nodes(op="placeholder"))


def outputs_of(graph: fx.Graph) -> list[fx.Node]:
    """The nodes whose values a graph returns."""
    return [node for node in tree_leaves(next(iter(reversed(graph.nodes))).args) if isinstance(node, fx.Node)]


def computed_from(
    outputs: Sequence[fx.Node], sources: Callable[[fx.Node], Collection[fx.Node]]
) -> dict[fx.Node, list[fx.Node]]:
    """Those outputs that are computed from other outputs, each with these, and behind them.

    Args:
        outputs: The outputs.
        sources: What a node depends on.
    """
    found = {node: sources(node) for node in outputs}
    below = {node: [other for other in outputs if other is not node and other in found[node]] for node in outputs}
    return {node: below[node] for node in sorted(outputs, key=lambda node: len(below[node])) if below[node]}


def ancestors(node: fx.Node) -> set[fx.Node]:
    """The nodes that a node is made of."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        new = [arg for arg in waiting.pop().all_input_nodes if arg not in found]
        found.update(new)
        waiting += new
    return found


def with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function for Dynamo to compile, which keeps what it compiled by code object.

    And by name and line which sizes it has seen differ: those of other models' graphs would count.
    """
    given: Any = function
    code = given.__code__.replace(co_name=f"{given.__name__}_{next(_numbers)}")
    return types.FunctionType(code, given.__globals__, closure=given.__closure__)


def compiled(module: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A graph under TorchInductor: in a function of its own, for Dynamo does not look at a graph by itself."""

    def run(*inputs: Any) -> Any:
        return module(*inputs)

    return torch.compile(with_own_code(run), options=options)


tracing = RLock()
"""Held while a graph is looked for, captured or traced: `make_fx` changes `nn.Module` as long as it traces, for all
threads, and in the others Dynamo would take that for the model."""


@contextmanager
def undisturbed() -> Generator[None]:
    """A context in which autograd is as it comes: no saved-tensors hooks (a checkpoint's, for one), no anomaly mode."""
    # Detached: an output that its own node held as it is would never be freed.
    as_it_is = saved_tensors_hooks(Tensor.detach, lambda tensor: tensor)
    with as_it_is if saved_tensors_may_have_hooks() else nullcontext(), torch.autograd.set_detect_anomaly(False):
        yield


class Places:
    """The names of a graph's operations, for the reader of an error.

    Args:
        model: The model, whose modules' paths are told.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = {path: module for path, module in model.named_modules()}
        self._paths = {id(module): path for path, module in self._modules.items()}

    def path(self, node: fx.Node) -> str:
        """The path of the module whose `forward` called the operation; "" for the model itself."""
        stack = list((node.meta.get("nn_module_stack") or {}).items())
        if not stack:
            return ""
        key, (source, _) = stack[-1]
        identity = key.split("@")[0]
        if identity.isdigit() and int(identity) in self._paths:
            return self._paths[int(identity)]
        return source.removeprefix(stack[0][1][0]).lstrip(".")

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module whose `forward` called the operation; None if the model does not register it."""
        return self._modules.get(self.path(node))

    def name(self, node: fx.Node) -> str:
        """The operation and its place: by the module's class if it is PyTorch's own, by the function if not."""
        module = self.module(node)
        by_class = module is not None and type(module).__module__.startswith("torch.nn.modules.")
        what = type(module).__name__ if by_class else name_of(node)
        return f"{what} at {self.path(node) or 'the model'!r}"


def name_of(node: fx.Node) -> str:
    """The name of the function that a node calls."""
    target = node.target
    return str(target if isinstance(target, str) else getattr(target, "__name__", target)).removesuffix(".default")


def user_line(node: fx.Node) -> str:
    """The innermost line outside PyTorch that led to the node, in brackets; empty if there is none."""
    line = line_in(node.stack_trace or "")
    return f" [{line}]" if line else ""


def first_line(error: Exception) -> str:
    """What an error says, on its first line."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def has_own_rule(node: fx.Node) -> bool:
    """Whether the operation runs under `with_rule` or `backward_rule` inside the model."""
    return f'File "{_RULES}' in (node.stack_trace or "")


def line_in(trace: str) -> str:
    """The innermost line outside PyTorch of a formatted stack, as file:line: code; empty if there is none."""
    frames = [frame for frame in _FRAME.finditer(trace) if not frame["file"].startswith(_NOT_THE_USERS)]
    if not frames:
        return ""
    file = frames[-1]["file"].replace("\\", "/").rsplit("/", 1)[-1]
    return f"{file}:{frames[-1]['line']}: {frames[-1]['code'].strip()}"


class Rewriting:
    """A new graph of some of another's operations, in their order, between the modes that they run under.

    Args:
        owner: Has the old graph.
        inputs: The nodes whose values the new graph is given first, in order.

    Attributes:
        graph: The new one.
        copies: The new node of an old one.
    """

    def __init__(self, owner: fx.GraphModule, inputs: Iterable[fx.Node]) -> None:
        self.owner = owner
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {node: self.graph.placeholder(node.name) for node in inputs}

    def input(self, name: str) -> fx.Node:
        """A further input; all before anything is written."""
        return self.graph.placeholder(name)

    def arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the old node is called with, in the new graph."""
        return fx.map_arg((node.args, node.kwargs), self.copies.__getitem__)  # pyright: ignore[reportReturnType]

    def call(self, function: Function, *args: Any, **kwargs: Any) -> fx.Node:
        """Write a call."""
        return self.graph.call_function(function, args, kwargs)

    def write(
        self, nodes: Collection[fx.Node], replaced: Mapping[fx.Node, Callable[[fx.Node], fx.Node | None]]
    ) -> None:
        """Write the operations among `nodes`, those in `replaced` as its functions write them."""
        for node in self.owner.graph.nodes:
            if node in self.copies or not (node in nodes or is_mode(node) or node.op == "get_attr"):
                continue
            if node not in replaced:
                self.copies[node] = self.graph.node_copy(node, self.copies.__getitem__)
            elif (written := replaced[node](node)) is not None:
                self.copies[node] = written

    def finish(self, outputs: Sequence[Any]) -> Callable[..., Any]:
        """The new graph, which returns a tuple of some of its nodes; as a module's `forward`, told to no hooks."""
        self.graph.output(tuple(outputs))
        for node in reversed(list(self.graph.nodes)):
            if node.op == "get_attr" and not node.users:
                self.graph.erase_node(node)
        return fx.GraphModule(self.owner, self.graph).forward


def inline_checkpoints(module: fx.GraphModule) -> None:
    """Put what activation checkpointing wraps in the place of the wrapper."""
    for node in list(module.graph.nodes):
        if name_of(node) not in ("tag_activation_checkpoint", "invoke_subgraph") or node.op != "call_function":
            continue
        body: fx.GraphModule = run_node(node.args[0], {}, module)
        inline_checkpoints(body)
        given = [a for a in node.args[1:] if not isinstance(a, str)]
        with module.graph.inserting_before(node):
            results = _copy_into(module, body, given)
        for user in list(node.users):  # each takes one result
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)


def _copy_into(module: fx.GraphModule, body: fx.GraphModule, given: list[Any]) -> list[fx.Node]:
    copies = dict(zip(inputs_of(body.graph), given, strict=True))
    for node in body.graph.nodes:
        if node.op == "get_attr":
            name = f"{node.target}_of_{id(body)}"
            setattr(module, name, run_node(node, {}, body))
            copies[node] = module.graph.get_attr(name)
        elif node.op != "placeholder" and node.op != "output":
            copies[node] = module.graph.node_copy(node, copies.__getitem__)
    return [copies[node] for node in _flat(body.graph)]


def _flat(graph: fx.Graph) -> Iterator[fx.Node]:
    (returned,) = next(iter(reversed(graph.nodes))).args
    yield from returned if isinstance(returned, (tuple, list)) else (returned,)  # pyright: ignore
