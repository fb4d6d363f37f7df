"""What a captured graph does to a few samples: the value of every node, what carries samples, what is overwritten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..._errors import CollapseError
from ..._torch.functions import ENTER_AUTOCAST, EXIT_AUTOCAST, is_transform
from ..._torch.tensors import storage_of, version_of
from .beginning import begin
from .graph import Places, computes, first_line, inputs_of, is_mode, outputs_of, run_node, tensors_of, user_line
from .layout import Form
from .sizes import BatchSize


class Trace:
    """Two runs of a graph, on a few samples each.

    Args:
        module: The graph.
        inputs: The graph's inputs of a real batch; tensors are copied before anything overwrites them.
        samples: Which of the inputs are tensors of samples.
        size: The number of samples in the batch.
        places: Names operations in errors.

    Attributes:
        sizes: The numbers of samples of the two runs.
        values: The values of every node in the two runs.
        carries: The nodes whose values hold something for each sample.
        numbers: Nodes whose values are no tensors, but sizes and the like.
        overwrites: What a node writes into: the storages, by node.
        random: The nodes that draw random numbers, in order.
        operations: The floating-point operations of a node's matrix products and convolutions, on `sizes[0]` samples.
    """

    def __init__(
        self, module: fx.GraphModule, inputs: Sequence[Any], samples: Sequence[bool], size: BatchSize, places: Places
    ) -> None:
        self.module, self.places, self.size, self.sizes = module, places, size, size.traced
        self.values: dict[fx.Node, tuple[Any, Any]] = {}
        self._storages: dict[fx.Node, set[int]] = {}
        self.carries: set[fx.Node] = set()
        self.numbers: set[fx.Node] = set()
        self.overwrites: dict[fx.Node, set[int]] = {}
        self.operations: dict[fx.Node, int] = {}
        given = dict(zip(inputs_of(module.graph), zip(inputs, samples, strict=True), strict=True))
        self.random: list[fx.Node] = []
        self._devices = {x.device for x in inputs if isinstance(x, Tensor) and x.device.type == "cuda"}
        with torch.random.fork_rng(list(self._devices)), torch.enable_grad():
            for node, (value, of_samples) in given.items():
                self.values[node] = _few(value, of_samples, size)
                if of_samples:
                    self.carries.add(node)
                elif not isinstance(value, Tensor):
                    self.numbers.add(node)
            try:
                for node in module.graph.nodes:
                    self._run(node)
            finally:
                self._leave_autocast()

    def _run(self, node: fx.Node) -> None:
        if node.op in ("placeholder", "output"):
            return
        if is_transform(node.target):
            raise CollapseError(
                f"{self.places.name(node)} belongs to a transform of torch.func (vmap, grad, jvp) inside the model: "
                f"write it without, or use lb.convert{user_line(node)}"
            )
        reads = {arg: tensors_of(self.values[arg]) for arg in node.all_input_nodes}
        states = {arg: [_State.of(t) for t in tensors] for arg, tensors in reads.items()}
        depends = any(arg in self.carries or self.depends_on_size(arg) for arg in reads)
        before = random_state(self._devices)
        self.values[node] = self._value(node, depends)
        if random_state(self._devices) != before:
            self.random.append(node)
        written = [arg for arg, tensors in reads.items() if any(map(_State.differs, states[arg], tensors))]
        if written:
            self.overwrites[node] = {storage_of(t) for arg in written for t in reads[arg]}
        if not computes(node):
            return
        if not tensors_of(self.values[node]) and not written:
            self._require_number(node)
            self.numbers.add(node)
        elif depends:
            self.carries.add(node)

    def _value(self, node: fx.Node, depends: bool) -> tuple[Any, Any]:
        """The node's values in both runs; what is the same in both is run once."""
        found: list[Any] = []
        for run in range(2 if depends else 1):
            given = {arg: self.values[arg][run] for arg in node.all_input_nodes}
            try:
                with _Operations() if depends and not run and computes(node) else nullcontext() as counted:
                    found.append(run_node(node, given, self.module))
            except Exception as error:
                raise CollapseError(
                    f"{self.places.name(node)} fails on another number of samples than the batch's: "
                    f"{first_line(error)}. If it runs on the batch itself, the model fixes the batch's size there: "
                    f"make its shapes follow x.shape[0]. Every argument of length {self.size.batch}, as long as the "
                    f"first (floating-point) one, counts as samples; if they are no samples, collapse what comes after"
                    f"{user_line(node)}"
                ) from error
            if counted is not None:
                self.operations[node] = counted.count
        return found[0], found[-1]

    def _require_number(self, node: fx.Node) -> None:
        value = self.values[node][0]
        plain = (int, float, bool, complex, str, tuple, list, torch.dtype, torch.device, torch.layout)
        if value is not None and not isinstance(value, plain):
            raise CollapseError(
                f"{self.places.name(node)} makes a {type(value).__name__}: hooks and the like would run on combined "
                f"samples. Take it out of the model's forward{user_line(node)}"
            )

    def depends_on_size(self, node: fx.Node) -> bool:
        """Whether a node is a number made of the number of samples."""
        return node in self.numbers and (self.values[node][0] != self.values[node][1] or self.size.makes(node))

    def _leave_autocast(self) -> None:
        """Leave the blocks that an error kept from being left."""
        run = [node for node in self.module.graph.nodes if is_mode(node) and node in self.values]
        left = {node.args[0] for node in run if node.args}
        for node in reversed(run):
            if node.target is ENTER_AUTOCAST and node not in left:
                EXIT_AUTOCAST(self.values[node][0])

    def storages(self, node: fx.Node) -> set[int]:
        """The storages of a node's tensors."""
        if node not in self._storages:
            self._storages[node] = {storage_of(t) for t in tensors_of(self.values[node])}
        return self._storages[node]

    def overwriting(self, node: fx.Node, after: fx.Node) -> list[fx.Node]:
        """The nodes behind `after` that write into a node's tensors."""
        storages = self.storages(node)
        if not any(storages & written for written in self.overwrites.values()):
            return []
        nodes = list(self.module.graph.nodes)
        return [later for later in nodes[nodes.index(after) + 1 :] if self.overwrites.get(later, set()) & storages]

    def touches(self, node: fx.Node, storages: set[int]) -> bool:
        """Whether an operation reads or writes any of some storages."""
        return computes(node) and any(self.storages(arg) & storages for arg in node.all_input_nodes)

    @property
    def outputs(self) -> list[fx.Node]:
        """The nodes whose values the graph returns, each once."""
        return list(dict.fromkeys(outputs_of(self.module.graph)))

    @property
    def differentiable(self) -> list[fx.Node]:
        """Those outputs that hold samples and take gradients, or would if the inputs did."""
        return [
            node
            for node in self.outputs
            if node in self.carries and any(t.requires_grad for t in tensors_of(self.values[node]))
        ]

    def needed(self, outputs: Sequence[fx.Node]) -> set[fx.Node]:
        """The nodes that some outputs of the graph depend on, through whatever overwrites them before it ends."""
        return self._sources(outputs, {s for node in outputs for s in self.storages(node)})

    def made_of(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """Some nodes and what they depend on when they run: what overwrites their values later is none of it."""
        return self._sources(nodes, set())

    def _sources(self, nodes: Iterable[fx.Node], read: set[int]) -> set[fx.Node]:
        """Those and what they are made of; `read` are the storages whose last values count."""
        needed = set(nodes)
        for node in reversed(self.module.graph.nodes):
            if node in needed or self.overwrites.get(node, set()) & read:
                needed.add(node)
                for arg in node.all_input_nodes:
                    needed.add(arg)
                    if arg in self.values:
                        read |= self.storages(arg)
        return needed


@dataclass(frozen=True)
class _State:
    """What a tensor is before an operation; of buffers the values, too: batch normalization counts no version.

    Nor does `detach_`.
    """

    version: int
    requires_grad: bool
    values: Tensor | None

    @staticmethod
    def of(tensor: Tensor) -> _State:
        """Its state."""
        is_buffer = not tensor.requires_grad and tensor.layout is torch.strided
        return _State(version_of(tensor), tensor.requires_grad, tensor.clone() if is_buffer else None)

    def differs(self, tensor: Tensor) -> bool:
        """Whether it is another one now."""
        if version_of(tensor) != self.version or tensor.requires_grad != self.requires_grad:
            return True
        if self.values is None:
            return False
        same = (tensor == self.values) | ((tensor != tensor) & (self.values != self.values))
        return not bool(same.all())


def _few(value: Any, of_samples: bool, size: BatchSize) -> tuple[Any, Any]:
    """An input of the two runs."""
    if isinstance(value, Tensor):
        if not of_samples:
            copied = value.detach().clone().requires_grad_(value.requires_grad)
            return copied, copied
        few = [_first(value.detach(), n, size.batch) for n in size.traced]
        if value.is_floating_point() or value.is_complex():  # as if they took gradients, and no leaves
            few = [begin(x)[0] for x in few]
        return few[0], few[1]
    if isinstance(value, torch.SymInt):
        return size.traced if size.counts(value) else (int(value), int(value))
    return value, value


def _first(x: Tensor, size: int, batch: int) -> Tensor:
    """Some samples of a batch, over again if it has not so many."""
    few = x[:size] if size <= batch else x[torch.arange(size, device=x.device) % batch]
    return Form.of(x).lay(few.clone())


def random_state(devices: Iterable[torch.device]) -> list[bytes]:
    """The state of the generators of the CPU and some devices."""
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    return [bytes(state.tolist()) for state in states]  # without NumPy, which PyTorch does not require


class _Operations(TorchDispatchMode):
    """Counts the floating-point operations of matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.count += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result
