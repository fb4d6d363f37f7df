"""Saturation against derivatives written out by hand."""

import math

import pytest
import torch
from torch import nn

import linear_backprop as lb
from linear_backprop.diagnostics import gradient_alignment, saturation

A = [-3.0, -1.0, 0.0, 1.5, 2.5]


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Tanh(), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.second(x.clone()) + self.first(x)


def test_counts_elements_whose_derivative_is_small():
    expected = sum(1 - math.tanh(a) ** 2 < 0.1 for a in A) / len(A)
    assert saturation(TwoLayers(), torch.tensor(A)) == pytest.approx({"second": 3 / 5, "first": expected})


def test_the_threshold_decides():
    # tanh' at 1.5 is 0.181, at 1 it is 0.420, at 0 it is 1.
    assert saturation(nn.Sequential(nn.Tanh()), torch.tensor(A), threshold=0.3) == {"0": pytest.approx(3 / 5)}


def test_sees_the_true_derivative_under_any_rule():
    model = TwoLayers()
    plain = saturation(model, torch.tensor(A))
    lb.convert(model, lb.Linear())
    assert saturation(model, torch.tensor(A)) == plain


def test_a_module_called_twice_counts_both():
    tanh = nn.Tanh()
    # tanh(3) = 0.995, where the derivative is 0.42 again.
    assert saturation(nn.Sequential(tanh, tanh), torch.tensor([3.0])) == {"0": 0.5}


def test_nan_is_saturated():
    assert saturation(nn.Sequential(nn.Tanh()), torch.tensor([math.nan, 0.0])) == {"0": 0.5}


def test_leaves_no_hook_behind_even_where_the_model_fails():
    model = nn.Sequential(nn.Tanh(), nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="shapes"):
        saturation(model, torch.zeros(1, 3))
    assert not model[0]._forward_pre_hooks


def test_a_model_without_activation_modules_is_refused():
    with pytest.raises(lb.LinearBackpropError, match="ran no activation module"):
        saturation(nn.Linear(2, 2), torch.zeros(1, 2))


def test_alignment_gives_the_norms_of_both_gradients():
    # y = tanh(w x) with w = 1.5, x = (2): dy/dw is 2 under Linear and 2 tanh'(3) under Backprop.
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh()).double()
    model[0].weight.data.fill_(1.5)
    result = gradient_alignment(model, lb.Linear(), torch.full((1, 1), 2.0, dtype=torch.float64), lambda y: y.sum())
    assert result.norms == {"0.weight": (pytest.approx(2.0), pytest.approx(2 * (1 - math.tanh(3) ** 2)))}


def test_an_activation_called_by_its_argument_s_name_counts():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.activation = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.activation(input=x)

    assert saturation(Named(), torch.tensor([-1.0, 1.0, 2.0, 3.0])) == {"activation": 0.25}


def test_in_inference_mode_it_is_the_same():
    model, x = nn.Sequential(nn.Tanh()), torch.tensor([0.0, 3.0])
    with torch.inference_mode():
        assert saturation(model, x.clone()) == {"0": 0.5}
