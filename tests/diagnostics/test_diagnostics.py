"""Diagnostics against values worked out by hand."""

import copy
import gc
import math
import weakref

import pytest
import torch
from torch import Tensor, nn

import linear_backprop as lb
from linear_backprop.diagnostics import collapse_error, gradient_alignment, saved_bytes


def test_alignment_by_hand():
    # y = tanh(w1 x1) + w2 x2 with x = (1, 1): the gradients are (f'(w1), 1) and (1, 1).
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.5, 0.3], dtype=torch.float64))
            self.v = nn.Parameter(torch.tensor([0.1], dtype=torch.float64))

        def forward(self, x):
            return torch.tanh(self.w[0] * x[0]) + self.w[1] * x[1] + self.v.sum() * 0

    slope = 1 - math.tanh(1.5) ** 2
    result = gradient_alignment(Net(), lb.Linear(), torch.ones(2, dtype=torch.float64), lambda y: y)
    cosine = (slope + 1) / (math.sqrt(slope**2 + 1) * math.sqrt(2))
    assert result.cosine == pytest.approx(cosine, rel=1e-12)
    assert result.by_parameter["w"] == pytest.approx(cosine, rel=1e-12)
    assert math.isnan(result.by_parameter["v"])
    assert result.norm_ratio == pytest.approx(math.sqrt(2) / math.sqrt(slope**2 + 1), rel=1e-12)


def test_alignment_leaves_the_model_and_the_random_state_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 2))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    # With the same random numbers on both sides, Exact agrees with itself.
    assert gradient_alignment(
        model, lb.Exact(), torch.randn(8, 3, generator=torch.Generator())
    ).cosine == pytest.approx(1)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "loss_fn", "message"),
    [
        (nn.Sequential(nn.ReLU()), None, "no parameter that requires grad"),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU()), lambda y: y, r"must return a scalar, got shape \(2, 3\)"),
    ],
)
def test_alignment_refuses(model, loss_fn, message):
    with pytest.raises(lb.LinearBackpropError, match=message):
        gradient_alignment(model, lb.Linear(), torch.ones(2, 3), loss_fn)


def test_a_conversion_does_not_count_for_alignment():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(4, 3)
    expected = gradient_alignment(model, lb.Linear(), x)
    assert expected.cosine < 0.999
    lb.convert(model, lb.PreActivation())
    lb.convert(model, lb.Linear())
    assert gradient_alignment(model, lb.Linear(), x) == expected


class Squares(lb.LayerRule):
    """A layer's rule of one's own, which the library's own rules do not keep out."""

    formula, source, modules = "2 g a", "none", ()
    arguments = {torch.mm: {"input": None, "mat2": None}}  # noqa: RUF012

    def linear_map(self, call, constants):
        return torch.mm(call.input, call.args[1]) * 2


@pytest.mark.parametrize("rule", [lb.Linear(), lb.Deconvolution(), lb.Exact()], ids=repr)
@pytest.mark.parametrize("layers", [(), lb.LINEAR_LAYERS, (Squares(),)])
def test_the_blocks_around_do_not_count(rule, layers):
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Unflatten(1, (1, 4)), nn.MaxPool1d(2), nn.Flatten())
    model, x = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double(), torch.randn(4, 3).double()

    def loss_fn(y: Tensor) -> Tensor:
        return torch.mm(torch.tanh(y), y.T.detach()).sum()

    aligned = gradient_alignment(model, lb.Linear(), x, loss_fn)
    of_pooled = gradient_alignment(pooled, lb.Linear(), x.float())
    with lb.backward_rule(rule, layers):
        assert gradient_alignment(model, lb.Linear(), x, loss_fn) == aligned
        assert gradient_alignment(pooled, lb.Linear(), x.float()) == of_pooled
        assert collapse_error(model, x, loss_fn) < 1e-12
    assert aligned.cosine < 0.999


class Keeping(nn.Module):
    """A model that keeps what it computed."""

    def __init__(self):
        super().__init__()
        self.below, self.kept = nn.Linear(3, 2), None

    def forward(self, x):
        self.kept = torch.tanh(self.below(x))
        return self.kept


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "make", [Keeping, lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2)), nn.Tanh())], ids=["kept", "weight"]
)
def test_a_model_that_holds_a_graph_is_compared(make):
    model, x = make().double(), torch.randn(4, 3, dtype=torch.float64)
    expected = gradient_alignment(copy.deepcopy(model), lb.Linear(), x) if make is Keeping else None
    kept = model(x)
    got = gradient_alignment(model, lb.Linear(), x)
    assert expected in (None, got) and got.cosine < 0.9999
    assert collapse_error(model, x) < 1e-12
    assert kept.grad_fn is not None


class WritesIntoItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.below = nn.Linear(3, 2)

    def forward(self, x):
        return torch.tanh(self.below(x["x"].mul_(2)))


def test_a_model_that_writes_into_its_input_is_compared_on_one_batch():
    model, x = WritesIntoItsInput().double(), torch.randn(4, 3, dtype=torch.float64)
    before = x.clone()
    assert gradient_alignment(model, lb.Exact(), ({"x": x},)).norm_ratio == 1
    assert collapse_error(model, ({"x": x},)) < 1e-12
    assert torch.equal(x, before)


def test_in_inference_mode_the_gradients_are_the_same():
    model, x = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(4, 3)
    with torch.inference_mode():
        assert gradient_alignment(model, lb.Linear(), x.clone()) == gradient_alignment(model, lb.Linear(), x)
        assert collapse_error(model, x.clone()) < 1e-4


def test_saved_bytes_by_hand():
    x = torch.randn(100, requires_grad=True)
    assert saved_bytes(torch.tanh, x) == 400  # its output
    assert saved_bytes(torch.mul, x, x) == 400  # x twice, one storage
    assert saved_bytes(torch.neg, x) == 0
    assert saved_bytes(lb.with_rule(torch.tanh, lb.Clipped()), x) == 400  # its input


def test_what_was_saved_is_freed():
    x = torch.randn(100, requires_grad=True)
    made: list[weakref.ref[Tensor]] = []
    saved_bytes(lambda: made.append(weakref.ref(x.tanh())))
    gc.collect()
    assert made[0]() is None
