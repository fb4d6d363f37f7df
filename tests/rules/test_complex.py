"""Complex pre-activations, on which PyTorch's cotangent is g * conj(f'(a))."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import linear_backprop as lb
from linear_backprop._catalogue.activations import CATALOGUE

A = torch.tensor([0.3 + 0.4j, -1.0 + 2.0j, 0.7 - 0.2j, 0.5j], dtype=torch.complex128)
G = torch.tensor([1.0 - 1.0j, 2.0 + 0.5j, 1.0j, -3.0 + 0.0j], dtype=torch.complex128)
REAL_ALONE = [
    *(lb.Clipped(), lb.Guided(), lb.Deconvolution(), lb.Surrogate("relu"), lb.Surrogate("silu")),
    *(lb.Blend(lb.Linear(), lb.Clipped(), 0.5), lb.Renormalized(lb.Guided())),
]


def cotangent(rule: lb.BackwardRule, a: Tensor = A, g: Tensor = G) -> Tensor:
    leaf = a.clone().requires_grad_()
    return torch.autograd.grad(lb.with_rule(torch.tanh, rule)(leaf), leaf, g)[0]


def sigmoid_slope(a: Tensor) -> Tensor:
    return torch.exp(-a) / (1 + torch.exp(-a)) ** 2


def slope_between_halves() -> Tensor:
    return ((A[:2].tanh() - A[2:].tanh()) / (A[:2] - A[2:])).repeat(2)


@pytest.mark.parametrize(
    ("rule", "slope"),
    [
        (lb.Linear(), torch.ones_like(A)),
        (lb.Surrogate("sigmoid"), sigmoid_slope(A)),
        (lb.Surrogate(lambda z: z * z), 2 * A),
        (lb.Ratio(), A.tanh() / A),
        (lb.Rescale(), slope_between_halves()),
        (lb.Rescale(epsilon=10.0), 1 - A.tanh() ** 2),
        (lb.Blend(lb.Linear(), lb.Exact(), 0.5), 1 - A.tanh() ** 2 / 2),
    ],
    ids=repr,
)
def test_a_cotangent_has_the_conjugate_of_the_slope(rule: lb.BackwardRule, slope: Tensor):
    torch.testing.assert_close(cotangent(rule), G * slope.conj(), rtol=1e-12, atol=0)
    _, moved = torch.func.jvp(lb.with_rule(torch.tanh, rule), (A,), (G,))
    torch.testing.assert_close(moved, G * slope, rtol=1e-12, atol=0)


def test_ratio_and_rescale_agree_with_the_derivative_where_it_is_their_limit():
    near = torch.cat([A[:2], A[:2] + 1e-4])
    torch.testing.assert_close(cotangent(lb.Rescale(), near), cotangent(lb.Exact(), near), rtol=1e-3, atol=0)
    small = 1e-4 * A
    torch.testing.assert_close(cotangent(lb.Ratio(), small), cotangent(lb.Exact(), small), rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", REAL_ALONE, ids=repr)
def test_a_rule_for_real_numbers_refuses_others_in_the_forward_pass(rule: lb.BackwardRule):
    model = nn.Sequential(nn.Linear(2, 2, dtype=torch.complex128), nn.Tanh())
    x = torch.ones(3, 2, dtype=torch.complex128)
    with lb.convert(model, rule), pytest.raises(lb.LinearBackpropError, match=r"takes no complex .* torch.complex128;"):
        model(x)
    with lb.backward_rule(rule):
        with pytest.raises(lb.LinearBackpropError, match="takes no complex numbers"):
            torch.func.vjp(torch.tanh, A)
        assert torch.equal(torch.tanh(A), A.tanh())  # of which nobody takes a gradient


def test_a_user_s_own_rule_is_taken_as_it_is():
    @dataclass(frozen=True)
    class Doubled(lb.BackwardRule):
        def cotangent(self, g, a, f):
            return 2 * g

    assert torch.equal(cotangent(Doubled()), 2 * G)


@pytest.mark.parametrize("activation", [a for a in CATALOGUE if a.has_defaults], ids=lambda a: a.name)
def test_the_catalogue_knows_which_activations_pytorch_differentiates_there(activation):
    try:
        leaf = A.clone().requires_grad_()
        torch.autograd.grad(activation.function(leaf), leaf, G)
        differentiated = True
    except RuntimeError:
        differentiated = False
    assert activation.takes_complex == differentiated
