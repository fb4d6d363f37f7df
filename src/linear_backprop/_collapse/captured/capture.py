"""A function whose graph Dynamo captures when it is called, and again whenever what it was captured under changes.

`torch.compile` with a backend of our own: nothing is compiled, but Dynamo follows the function's Python, hands over
the graph of its operations, and guards it. A change of mode, of a module, a shape or a dtype fails a guard.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, is_dataclass
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from ..._errors import CollapseError
from ..._torch.dynamo import (
    MOST_GRAPHS,
    capturing_whole,
    counting_samples,
    dynamo_errors,
    one_is_a_size_like_others,
    traced_classes,
)
from ..._torch.modes import function_modes
from ..._torch.modules import global_module_hooks
from .graph import first_line, inline_checkpoints, line_in, tracing, undisturbed, with_own_code

Runner = Callable[["Invocation", Sequence[Any]], Sequence[Any]]
Prepare = Callable[[fx.GraphModule, Sequence[Any], "Invocation"], Runner]


@dataclass
class Invocation:
    """One call of a captured function.

    Attributes:
        prepare: Makes a runner of a graph.
        runners: Those made so far.
        given: The tensors that it was called with: identities.
        samples: Those of them whose first dimension counts samples, where it knows what samples are.
        batch: The number of samples.
        classes: Those whose methods a graph that it captured was made of.
        has_run: Whether the runner was reached.
        search: What is to be left once it is.
    """

    prepare: Prepare
    runners: list[Runner]
    given: set[int] = field(default_factory=set[int])
    samples: set[int] = field(default_factory=set[int])
    batch: int = 0
    classes: set[type] = field(default_factory=set[type])
    has_run: bool = False
    search: ExitStack = field(default_factory=ExitStack)


# How Dynamo says, below a first line that is the same for all, why it does not follow a call.
_REASON = re.compile(r"Reason: (.+?)(?:\. |\.?$)", re.MULTILINE)

_under_way: ContextVar[Invocation] = ContextVar("_under_way")


class Captured:
    """A function that runs as what is made of its graph.

    Args:
        function: Any function whose Python Dynamo can follow whole.
        prepare: Makes a runner of a graph, given the inputs of the first call: what runs in its place, given the
            inputs of each.
        model: The model that the function runs.
        samples: Whether the first dimension of the tensors it is called with counts samples.
    """

    def __init__(self, function: Callable[..., Any], prepare: Prepare, model: nn.Module, samples: bool) -> None:
        self.function, self.prepare, self.model, self.samples = function, prepare, model, samples
        self._compiled: Callable[..., Any] | None = None
        self._runners: list[Runner] = []
        self._classes: set[type] = set()
        self._unguarded: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result.

        Raises:
            CollapseError: Dynamo cannot follow the function, or `prepare` refuses its graph.
        """
        if torch.compiler.is_dynamo_compiling():  # the graph of what calls it: not to be followed into this one
            return torch.compiler.disable(self._call)(*args, **kwargs)
        return self._call(*args, **kwargs)

    # Apart: of a frame with these handlers, in which its graph breaks, Dynamo fails to write the rest (PyTorch 2.13).
    def _call(self, *args: Any, **kwargs: Any) -> Any:
        _refuse_modes()
        call = Invocation(self.prepare, self._runners)
        tensors = _tensors_in((args, self._in_order(kwargs) if self.samples else kwargs), set())
        samples = self._samples(call, tensors) if self.samples else []
        call.given = {id(x) for x in tensors}
        call.samples = {id(x) for x in samples}
        token = _under_way.set(call)
        try:
            with call.search as search:
                search.enter_context(tracing)
                search.enter_context(capturing_whole())
                if call.batch == 1:  # a batch, not a constant
                    search.enter_context(one_is_a_size_like_others())
                if self.samples:
                    search.enter_context(counting_samples(samples, tensors))
                result = self._run(args, kwargs)
        except dynamo_errors().BackendCompilerFailed as error:  # an error of ours: as it is
            raise error.inner_exception from None
        except Exception as error:
            if call.has_run or isinstance(error, CollapseError):
                raise
            own = self._own_error(args, kwargs)
            raise own or CollapseError(_explanation(error)) from (own.__cause__ if own else error)
        finally:
            _under_way.reset(token)
        if not call.has_run:
            raise CollapseError(
                "the model's graph was not captured: it computes nothing from its inputs, or Dynamo is disabled "
                "(TORCHDYNAMO_DISABLE, torch.compiler.set_stance); enable it"
            )
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None, "_runners": [], "_classes": set(), "_unguarded": []}

    def _run(self, args: Any, kwargs: Any) -> Any:
        if self._compiled is None or _unguarded(self._classes) != self._unguarded:
            self._compiled = self._compile()
        known = len(self._runners)
        try:
            return self._compiled(*args, **kwargs)
        except dynamo_errors().FailOnRecompileLimitHit:  # counted by function; another one starts anew
            warnings.warn(
                f"{MOST_GRAPHS} graphs of the model were captured, for inputs of other sizes beside the batch's, types "
                f"or modes, and no more are kept: all are dropped, and each is captured again, which takes a second or "
                f"so. Pad samples to fewer sizes",
                stacklevel=2,
            )
            self._compiled, known = self._compile(), 0
            return self._compiled(*args, **kwargs)
        finally:
            if len(self._runners) > known:
                classes = {each for module in self.model.modules() for each in type(module).__mro__}
                with tracing:
                    self._classes |= (classes | _under_way.get().classes) - {nn.Module, object}
                    self._unguarded = _unguarded(self._classes)

    def _compile(self) -> Callable[..., Any]:
        self._runners.clear()
        function = self.function

        def captured(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return torch.compile(with_own_code(captured), backend=_backend, fullgraph=True, dynamic=False)

    def _in_order(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments in the order in which the model takes them, which is not that in which they are given."""
        if len(kwargs) < 2:
            return kwargs
        names = [name for name in inspect.signature(self.model.forward).parameters if name in kwargs]
        return {name: kwargs[name] for name in dict.fromkeys([*names, *kwargs])}

    def _samples(self, call: Invocation, given: Sequence[Tensor]) -> list[Tensor]:
        """The tensors whose first dimension counts samples."""
        if any(x.is_nested for x in given):
            raise CollapseError(
                "an input is a nested tensor, whose samples differ in size: pad them (torch.nested.to_padded_tensor), "
                "or use lb.convert"
            )
        tensors = [x for x in given if x.dim()]
        floating = [x for x in tensors if x.is_floating_point()]
        if not tensors:
            raise CollapseError(
                "a collapsed model needs a tensor of samples among its inputs, of shape (N, ...), by itself or in "
                "tuples, lists, dicts and dataclasses; torch.utils._pytree.register_pytree_node tells what others hold"
            )
        call.batch = len((floating or tensors)[0])
        if not call.batch:
            raise CollapseError(f"the batch is empty: got an input of shape {tuple((floating or tensors)[0].shape)}")
        if any(x.is_meta for x in tensors):
            raise CollapseError("the samples are on the meta device, and nothing can be proved without values")
        return [x for x in tensors if len(x) == call.batch]

    def _own_error(self, args: Any, kwargs: Any) -> Exception | None:
        """What the function raises by itself, where it does."""
        try:
            self.function(*args, **kwargs)
        except Exception as error:
            return error
        return None


def _tensors_in(value: Any, seen: set[int]) -> list[Tensor]:
    """The tensors in arguments, in order: in pytrees, and in mappings and dataclasses, which are none of themselves."""
    found: list[Tensor] = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif id(leaf) not in seen:
            seen.add(id(leaf))
            if isinstance(leaf, Mapping):
                found += _tensors_in(list(leaf.values()), seen)  # pyright: ignore[reportUnknownArgumentType]
            elif is_dataclass(leaf) and not isinstance(leaf, type):
                found += _tensors_in([getattr(leaf, each.name, None) for each in fields(leaf)], seen)
    return found


def _refuse_modes() -> None:
    """Refuse torch function modes of the user's own, which Dynamo does not follow."""
    for mode in function_modes():
        if type(mode).__module__.split(".")[0] not in ("torch", __name__.split(".")[0]):
            raise CollapseError(
                f"the model cannot be captured here: a torch function mode is active, {type(mode).__name__}, and would "
                f"not see what the model calls. Leave it, or use lb.convert"
            )


def _unguarded(classes: Collection[type]) -> list[Any]:
    """What a model's code depends on and Dynamo does not guard."""
    return [nn.Module.__call__, *global_module_hooks(), *map(_methods_of, classes)]


def _methods_of(kind: type) -> dict[str, tuple[FunctionType, CodeType]]:
    """A class's methods and properties: patched, or reloaded in place by a notebook."""
    functions = {name: getattr(each, "__func__", getattr(each, "fget", each)) for name, each in vars(kind).items()}
    return {name: (each, each.__code__) for name, each in functions.items() if isinstance(each, FunctionType)}


def _backend(module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    """Dynamo's backend; one for all, since Dynamo keeps it for good, and its result as long as the code."""
    call = _under_way.get()
    call.classes |= traced_classes()
    try:
        with undisturbed():
            inline_checkpoints(module)
            runner = call.prepare(module, inputs, call)
    except CollapseError as error:  # to be raised at the call, where nobody swallows it
        runner = _raising(str(error))

    index = len(call.runners)
    call.runners.append(runner)

    def run(*inputs: Any) -> Any:
        call = _under_way.get()
        call.has_run = True
        runner = call.runners[index]  # while no other thread captures anew
        call.search.close()
        return runner(call, inputs)

    return run


def _raising(message: str) -> Runner:
    def run(call: Invocation, inputs: Sequence[Any]) -> Sequence[Any]:
        raise CollapseError(message)

    return run


def _explanation(error: Exception) -> str:
    text = str(error)
    if text.startswith("torch.compile with fullgraph=True"):
        return (
            "the model cannot be captured here: a dispatch mode is active (FlopCounterMode, a mode of your own), or "
            "Dynamo skips its forward. Leave the mode, or use lb.convert"
        )
    if not isinstance(error, dynamo_errors().TorchDynamoException):
        return f"the model cannot be captured here: {first_line(error)}. Change what it says, or use lb.convert"
    stated = _REASON.search(text)
    reason = stated[1] if stated else first_line(error)
    line = line_in(text)
    where = f" at {line}" if line else ""
    return (
        f"the model's forward cannot be captured whole{where}: {reason.rstrip('.')}. Take it out of forward, or write "
        f"it in tensor operations; lb.convert takes the model as it is"
    )
