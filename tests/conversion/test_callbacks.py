"""Functions that PyTorch's own functions call back: they follow the rule that is around the call."""

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import get_overridable_functions
from torch.utils.checkpoint import checkpoint

import linear_backprop as lb
from linear_backprop._torch.functions import CALLED_BACK

# What they are given is called in the backward pass, or on numbers.
NOT_ON_TENSORS = {"register_hook", "register_post_accumulate_grad_hook", "apply_", "map_", "map2_"}


def test_the_functions_that_call_back_are_known():
    told = {function for functions in get_overridable_functions().values() for function in functions}
    calling = {function for function in told - {checkpoint} if _takes_a_function(function)}
    assert {each for each in calling if each.__name__ not in NOT_ON_TENSORS} == set(CALLED_BACK) - {checkpoint}


def _takes_a_function(function: Callable) -> bool:
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C, where `callable` is what PyTorch names such an argument
        return "callable" in (function.__doc__ or "").split(")")[0]
    return any("Callable" in str(p.annotation) or p.name == "hook" for p in signature.parameters.values())


class Distances(nn.Module):
    """A loss of which every gradient is -0.25 under `Linear`."""

    def forward(self, anchor: Tensor, other: Tensor) -> Tensor:
        return F.triplet_margin_with_distance_loss(
            anchor, other, anchor + 1, distance_function=lambda u, v: torch.relu(u - v).sum(1), margin=100.0
        )


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("put", ["convert", "block"])
def test_a_distance_follows_the_rule(put: str, compiled: bool):
    torch._dynamo.reset()
    model = Distances()
    if put == "convert":
        conversion = lb.convert(model)
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    anchor, other = torch.zeros(4, 3), torch.linspace(-1, 1, 12).view(4, 3).requires_grad_()
    with lb.backward_rule(lb.Linear() if put == "block" else lb.Exact()):
        loss = run(anchor, other)
    assert torch.autograd.grad(loss, other)[0].unique().tolist() == [-0.25]
    if put == "convert" and not compiled:
        assert [site.what for site in conversion.changed] == ["relu (called)"]


@pytest.mark.parametrize("given", [{}, {"distance_function": None}])
def test_without_a_function_nothing_is_called_back(given: dict[str, None]):
    anchor, other = torch.zeros(4, 3), torch.ones(4, 3)
    with lb.backward_rule():
        loss = F.triplet_margin_with_distance_loss(anchor, other, anchor, **given)
    assert loss == F.triplet_margin_with_distance_loss(anchor, other, anchor)


class Checkpointing(nn.Module):
    """Checkpoints code of its own and a module."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.below, self.block = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.reentrant = reentrant
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(lambda z: torch.tanh(self.below(z)), x, use_reentrant=self.reentrant)
        return checkpoint(self.block, h, use_reentrant=self.reentrant)


def under(rule: lb.BackwardRule, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with lb.backward_rule(rule):
            return function(x)

    return run


def compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=True)


def gradient(function: Callable[[Tensor], Tensor]) -> Tensor:
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 4).requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


LINEAR, EXACT = lb.Linear(), lb.Exact()
WAYS = {
    "a block around compiled code": lambda model: under(LINEAR, compiled(model)),
    "a block in compiled code": lambda model: compiled(under(LINEAR, model)),
    "the inner of two blocks": lambda model: under(EXACT, compiled(under(LINEAR, model))),
    "a converted model": lambda model: lb.convert(model) and compiled(model),
    "a converted model in a block": lambda model: lb.convert(model) and under(EXACT, compiled(model)),
    "around another checkpoint": lambda model: under(
        LINEAR, compiled(lambda x: checkpoint(model, x, use_reentrant=model.reentrant))
    ),
}


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_checkpointed_in_compiled_code_follows_the_rule(way: str, reentrant: bool):
    model = Checkpointing(reentrant)
    expected = torch.ones(3, 4, dtype=torch.float64) @ model.block[0].weight @ model.below.weight
    torch.testing.assert_close(gradient(WAYS[way](model)), expected)


@pytest.mark.parametrize("where", ["block*", "block.1"])
def test_a_part_follows_that_code_without_the_rule_checkpoints(where: str):
    model = Checkpointing(reentrant=False)
    with lb.convert(model, where=where):
        expected = gradient(model)
        torch.testing.assert_close(gradient(compiled(model)), expected)
    assert not torch.allclose(gradient(model), expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # PyTorch's own, of a compiled block's input
def test_what_is_checkpointed_in_compiled_code_is_attributed_and_observed():
    model = Checkpointing(reentrant=False).eval()
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 4)
    expected = lb.attribution.GuidedBackprop(model).attribute(x, target=1)
    got = lb.attribution.GuidedBackprop(compiled(model)).attribute(x, target=1)
    torch.testing.assert_close(got, expected)
