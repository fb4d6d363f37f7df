"""A graph of `torch.compile` that breaks inside a converted model: what runs on either side follows the rule."""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb

pytestmark = pytest.mark.usefixtures("in_float64")


def broken(x: Tensor) -> Tensor:
    """x, and a graph that breaks here."""
    torch._dynamo.graph_break()
    return x


def read(x: Tensor) -> Tensor:
    """x, after its values were looked at."""
    return x if float(x.detach().sum()) < 1e9 else 2 * x


@torch._dynamo.disable
def uncompiled(x: Tensor) -> Tensor:
    """Code that is never compiled."""
    return torch.sigmoid(x)


class Forward(nn.Module):
    """Activations in the forward pass, before and after a break."""

    def __init__(self, break_up: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.below, self.above, self.act = nn.Linear(5, 5), nn.Linear(5, 5), nn.Tanh()
        self.break_up = break_up

    def forward(self, x: Tensor) -> Tensor:
        h = self.break_up(torch.sigmoid(self.below(x)))
        return F.softplus(self.above(self.act(h)))


class Methods(Forward):
    """A method of the module's own, which breaks between its activations."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.encode(F.silu(x)))

    def encode(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.above(self.break_up(self.act(self.below(x)))))


class Looped(Forward):
    """One module three times, each with a break."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.break_up(self.act(self.below(x)))
        return self.above(x)


class Static(Forward):
    """Ways into the code other than plain methods."""

    def forward(self, x: Tensor) -> Tensor:
        return self.squashed(self.above(self.half(self.break_up, F.silu(self.below(x)))))

    @staticmethod
    def half(break_up: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.tanh(break_up(torch.sigmoid(x)))

    @classmethod
    def squashed(cls, x: Tensor) -> Tensor:
        return F.softplus(broken(torch.tanh(x)))


def replaced(break_up: Callable[[Tensor], Tensor]) -> nn.Module:
    """A `forward` that was set on the instance."""
    model = Forward(break_up)
    model.forward = functools.partial(Methods.forward, model)
    model.encode = functools.partial(Methods.encode, model)
    return model


def stacked(break_up: Callable[[Tensor], Tensor]) -> nn.Module:
    """Modules of PyTorch's own around those that break."""
    return nn.Sequential(Forward(break_up), nn.ReLU(), nn.Sequential(Looped(break_up), nn.Dropout(0.0), nn.SiLU()))


def normalized(break_up: Callable[[Tensor], Tensor]) -> nn.Module:
    """Layers that have rules of their own."""
    return nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), Forward(break_up), nn.LayerNorm(5), nn.Tanh())


def gradients(run: Callable[[Tensor], Tensor], model: nn.Module) -> list[Tensor]:
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = run(x).square().sum()
    return list(torch.autograd.grad(loss, [x, *model.parameters()]))


MODELS = (Forward, Methods, Looped, Static, replaced, stacked, normalized)
RULES = [(lb.PreActivation(), {}), (lb.Renormalized(lb.Linear()), {}), (lb.Linear(), {"layers": lb.LINEAR_LAYERS})]
CASES = [
    *((make, broken, lb.Linear(), {}) for make in MODELS),
    *((make, break_up, lb.Linear(), {}) for make in (Forward, stacked) for break_up in (read, uncompiled)),
    *((make, broken, *rule) for make in (Methods, normalized) for rule in RULES),
]


@pytest.mark.parametrize(("make", "break_up", "rule", "options"), CASES)
def test_a_converted_model(make, break_up, rule: lb.BackwardRule, options: dict):
    torch.manual_seed(0)
    model = make(break_up)
    exact = gradients(model, model)
    lb.convert(model, rule, **options)
    expected = gradients(model, model)
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(gradients(compiled, model), expected)
    assert max((a - b).abs().max() for a, b in zip(expected, exact, strict=True)) > 1e-3


@pytest.mark.parametrize("make", [Methods, Static, normalized])
def test_a_block_of_a_rule_around_compiled_code_and_in_it(make):
    torch.manual_seed(0)
    model = make(broken)

    def around(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def ruled(x: Tensor) -> Tensor:
            with lb.backward_rule():
                return run(x)

        return ruled

    expected = gradients(around(model), model)
    for compiled in (
        around(torch.compile(model, backend="aot_eager")),
        torch.compile(around(model), backend="aot_eager"),
    ):
        torch.testing.assert_close(gradients(compiled, model), expected)


@pytest.mark.parametrize("make", [Looped, stacked])
def test_compiled_before_it_is_converted(make):
    torch.manual_seed(0)
    model = torch.compile(make(broken), backend="aot_eager")
    inner = model._orig_mod
    gradients(model, inner)
    twin = copy.deepcopy(inner)
    with lb.convert(twin):
        expected = gradients(twin, twin)
    exact = gradients(twin, twin)
    with lb.convert(model):
        torch.testing.assert_close(gradients(model, inner), expected)
    torch.testing.assert_close(gradients(model, inner), exact)
