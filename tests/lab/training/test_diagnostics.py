import math

import numpy as np
import pytest
import torch
from torch import nn

import linear_backprop as lb
from linear_backprop_lab.training._diagnostics import diagnose, layer_names

# Kept to four digits.
FOUR_DIGITS = 1e-3


def by_hand(model, x, labels, linear):
    """Gradients of the two weights of flatten, layer, tanh, layer, in NumPy; and the slopes."""
    w1, b1, w2, b2 = (parameter.detach().numpy() for parameter in model.parameters())
    h0 = x.reshape(len(x), -1)
    a = h0 @ w1.T + b1
    h = np.tanh(a)
    logits = h @ w2.T + b2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    g = (p - np.eye(w2.shape[0])[labels]) / len(x)
    slopes = 1 - h**2
    below = g @ w2 * (1 if linear else slopes)
    return [below.T @ h0, below.sum(0), g.T @ h, g.sum(0)], slopes


@pytest.mark.parametrize("rule", [lb.Exact(), lb.Linear(), lb.PreActivation()])
def test_gradients_and_saturation_are_those_of_numpy_under_any_rule(rule):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    x, labels = 2 * torch.randn(7, 3, 2, 2, dtype=torch.float64), torch.randint(4, (7,))
    lb.convert(model, rule)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = diagnose(model.eval(), x, labels)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())

    gradients = {linear: by_hand(model, x.numpy(), labels.numpy(), linear) for linear in (False, True)}
    for name, linear in (("gradient_norm_backprop", False), ("gradient_norm_linear", True)):
        expected = [np.linalg.norm(gradients[linear][0][index]) for index in (0, 2)]
        assert found[name] == pytest.approx(expected, rel=FOUR_DIGITS)
    u, v = (np.concatenate([each.ravel() for each in gradients[linear][0]]) for linear in (True, False))
    assert found["cosine"] == pytest.approx(u @ v / np.linalg.norm(u) / np.linalg.norm(v), rel=FOUR_DIGITS)
    assert found["saturation"] == pytest.approx([(gradients[True][1] < 0.1).mean()], rel=FOUR_DIGITS)
    assert layer_names(model, x) == {"activations": ["2"], "weights": ["1.weight", "3.weight"]}


def test_what_is_not_finite_is_none():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2), nn.Tanh())
    model[1].weight.data.fill_(math.nan)
    found = diagnose(model, torch.ones(2, 3, 1, 1), torch.zeros(2, dtype=torch.int64))
    assert found["cosine"] is None and found["gradient_norm_linear"] == [None] and found["saturation"] == [1.0]
