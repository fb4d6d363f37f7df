"""What users of hooks and of other libraries complain about, against a straight-through unit written by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import linear_backprop as lb

Act = Callable[[Tensor], Tensor]


class _Straight(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return torch.tanh(z)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g


class Model(nn.Module):
    """Layers, and an activation that is PyTorch's or the one written by hand."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act: Act = torch.tanh
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.normed = weight_norm(nn.Linear(4, 4))
        self.experts = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.gate = nn.Linear(4, 2)
        self.bound = nn.Parameter(torch.tensor(0.3))
        self.double()


class ActModule(nn.Module):
    """The activation as a module."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self.act = act

    def forward(self, z: Tensor) -> Tensor:
        return self.act(z)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return -g


def made_in_forward(m: Model, x: Tensor) -> Tensor:
    return m.b(ActModule(m.act)(m.a(x)))


def reused_and_adjacent(m: Model, x: Tensor) -> Tensor:
    act = ActModule(m.act)
    return act(act(m.b(act(m.a(act(x))))))


def gradient_reversal(m: Model, x: Tensor) -> Tensor:
    h = m.act(m.a(x))
    return m.b(h) + m.gate(_Reverse.apply(h)).sum(-1, keepdim=True)


def learned_clipping(m: Model, x: Tensor) -> Tensor:  # PACT: min(h, bound), written so that no clamp is called
    h = m.act(m.a(x))
    return torch.where(h < m.bound, h, m.bound)


def mixture_with_auxiliary_loss(m: Model, x: Tensor) -> Tensor:
    weights = m.gate(x).softmax(-1)
    h = sum(weights[:, k, None] * m.act(expert(x)) for k, expert in enumerate(m.experts))
    return m.b(h) + weights.mean(0).square().sum()


def weight_normalization(m: Model, x: Tensor) -> Tensor:
    return m.b(m.act(m.normed(x)))


def an_inner_step_of_meta_learning(m: Model, x: Tensor) -> Tensor:
    loss = m.b(m.act(m.a(x))).square().mean()
    g, h = torch.autograd.grad(loss, [m.a.weight, m.b.weight], create_graph=True)
    return F.linear(m.act(F.linear(x, m.a.weight - 0.1 * g)), m.b.weight - 0.1 * h)


def an_ensemble_under_vmap(m: Model, x: Tensor) -> Tensor:
    weights = torch.stack([m.a.weight, m.b.weight])
    return torch.vmap(lambda w: m.act(F.linear(x, w)))(weights).sum(0)


def fourier_layers(m: Model, x: Tensor) -> Tensor:
    return m.b(m.act(torch.fft.irfft(torch.fft.rfft(m.a(x)) * 0.5, n=4)))


FORWARDS = [
    made_in_forward,
    reused_and_adjacent,
    gradient_reversal,
    learned_clipping,
    mixture_with_auxiliary_loss,
    weight_normalization,
    an_inner_step_of_meta_learning,
    an_ensemble_under_vmap,
    fourier_layers,
]


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
@pytest.mark.parametrize("by", ["convert", "block"])
def test_gradients_are_those_of_a_unit_written_by_hand(forward, by: str):
    found = []
    for act in (_Straight.apply, torch.tanh):
        model = Model()
        model.act = act
        model.run = lambda x, m=model: forward(m, x)  # type: ignore[assignment]
        model.forward = model.run
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4).requires_grad_()
        if act is torch.tanh and by == "convert":
            lb.convert(model)
        if act is torch.tanh and by == "block":
            with lb.backward_rule():
                y = model(x)
        else:
            y = model(x)
        grads = torch.autograd.grad(y.square().sum(), [*model.parameters(), x], allow_unused=True)
        found.append([y, *(g for g in grads if g is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_keeps_its_values_and_follows(training: bool):
    torch.manual_seed(0)
    model = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True).train(training)
    x = torch.randn(2, 3, 8)
    expected = model(x, x)
    with torch.no_grad():
        fast = model(x, x)
    conversion = lb.convert(model)
    assert torch.equal(model(x, x), expected)
    with torch.no_grad():
        assert torch.equal(model(x, x), fast)
    assert {site.what for site in conversion.changed} == {"relu (called)"}
