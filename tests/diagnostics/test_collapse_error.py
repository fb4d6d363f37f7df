"""The difference between collapsed and ordinary gradients, on the user's own batch."""

import pytest
import torch
from torch import nn

import linear_backprop as lb
from linear_backprop.diagnostics import _collapse_error, collapse_error


def mlp(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).to(dtype)


@pytest.mark.parametrize("rule", [lb.Linear(), lb.MeanLinear(), lb.LocallyExact()], ids=repr)
def test_it_is_rounding(rule):
    model, x = mlp(), torch.randn(2, 6, dtype=torch.float64)  # so few that collapse would take the ordinary path
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert collapse_error(model, x, lambda y: y.logsumexp(1).mean(), rule=rule) < 1e-12
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_wrong_gradient_is_measured(monkeypatch):
    """One unit, x = 2 and a = 0.5: Linear's gradient is 2, and without a rule it is 2 f'(0.5)."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh()).double()
    with torch.no_grad():
        model[0].weight.fill_(0.25)
    monkeypatch.setattr(_collapse_error, "convert", lambda *_: None)
    slope = 1 - torch.tensor(0.5).double().tanh().item() ** 2
    error = collapse_error(model, torch.full((1, 1), 2.0).double(), lambda y: y.sum())
    assert error == pytest.approx((2 - 2 * slope) / (2 * slope), rel=1e-12)


def test_the_random_numbers_are_the_same_and_given_back():
    model = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3)).double()
    x = torch.randn(40, 6, dtype=torch.float64)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert collapse_error(model, x, layers=lb.LINEAR_LAYERS) < 1e-12
    assert torch.equal(torch.rand(1), expected)


def test_a_gradient_that_is_zero_but_for_rounding_does_not_count_as_wrong():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 3))
    model.double()  # the lowest bias has no effect: its gradient is of rounding alone
    assert collapse_error(model, torch.randn(40, 6, dtype=torch.float64), where=lb.after("2")) < 1e-6


def test_gradients_that_are_zero_agree():
    assert collapse_error(mlp(), torch.randn(9, 6, dtype=torch.float64), lambda y: y.sum() * 0) == 0


def test_it_raises_what_collapse_raises():
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Softmax(1))
    with pytest.raises(lb.CollapseError, match="Softmax at '2' cannot be collapsed"):
        collapse_error(model, torch.randn(9, 6))
    with pytest.raises(lb.LinearBackpropError, match="collapse takes Linear"):
        collapse_error(model, torch.randn(9, 6), rule=lb.Exact())
    with pytest.raises(lb.LinearBackpropError, match="must return a scalar"):
        collapse_error(mlp(), torch.randn(9, 6).double(), lambda y: y)
