"""A rule's direction at the true derivative's length: by NumPy, at zeros, and where squares under- and overflow."""

import numpy as np
import pytest
import references
import torch
from torch import Tensor, nn

import linear_backprop as lb

RULE = lb.Renormalized(lb.Linear())


def cotangent(rule: lb.BackwardRule, function, a: Tensor, g: Tensor) -> Tensor:
    leaf = a.clone().requires_grad_()
    return torch.autograd.grad(lb.with_rule(function, rule)(leaf), leaf, g)[0]


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("shape", [(5,), (5, 4), (5, 3, 2, 2), (1, 7)])
@pytest.mark.parametrize("inner", [lb.Linear(), lb.PreActivation(), lb.Surrogate("silu"), lb.Guided()], ids=repr)
def test_every_sample_has_the_rule_s_direction_and_the_true_length(name: str, shape, inner: lb.BackwardRule):
    random = np.random.default_rng(0)
    a, g = random.normal(size=shape), random.normal(size=shape)
    got = cotangent(
        lb.Renormalized(inner), getattr(torch.nn.functional, name), torch.tensor(a), torch.tensor(g)
    ).numpy()
    exact = g * references.ACTIVATIONS[name][1](a)
    of_rule = {
        lb.Linear(): g,
        lb.PreActivation(): g * a,
        lb.Surrogate("silu"): g * references.silu_derivative(a),
        lb.Guided(): g * (a > 0) * (g > 0),
    }[inner]
    for sample in range(shape[0]):
        length = np.sqrt((of_rule[sample] ** 2).sum())
        expected = of_rule[sample] * (np.sqrt((exact[sample] ** 2).sum()) / length if length else 0.0)
        np.testing.assert_allclose(got[sample], expected, rtol=1e-10, atol=1e-15)


def test_zeros_stay_zeros():
    a = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    g = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0]], dtype=torch.float64)
    # No cotangent; no true cotangent, for all units are off; a length of 5; ReLU's derivative at its kink is 0.
    assert cotangent(RULE, torch.relu, a, g).tolist() == [[0, 0], [0, 0], [3, 4], [0, 0]]
    # The rule's own is 0 where PreActivation multiplies by a = 0, and tanh's derivative is 1 there.
    assert cotangent(lb.Renormalized(lb.PreActivation()), torch.tanh, 0 * a, g).tolist() == [[0.0, 0.0]] * 4


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (torch.float32, 1e-30),
        (torch.float32, 1e30),
        (torch.float16, 1e-6),
        (torch.float16, 3e4),
        (torch.bfloat16, 1e-30),
    ],
)
def test_squares_neither_underflow_nor_overflow(dtype: torch.dtype, size: float):
    a = torch.tensor([[1.0, -1.0, 1.0, 1.0]] * 2).to(dtype)
    g = torch.tensor([[size] * 4, [1.0] * 4]).to(dtype)
    got = cotangent(RULE, torch.relu, a, g)
    assert got.dtype == dtype
    # Three of four units are on. Half precision rounds to 11 and 8 bits.
    torch.testing.assert_close(got.double(), g.double() * 0.75**0.5, rtol=5e-3, atol=float(torch.finfo(dtype).tiny))


def test_a_tensor_without_dimensions_is_one_sample_and_an_empty_one_none():
    assert cotangent(RULE, torch.tanh, torch.tensor(0.0), torch.tensor(-2.0)).item() == -2.0
    assert cotangent(RULE, torch.tanh, torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 3)
    assert cotangent(RULE, torch.tanh, torch.zeros(2, 0), torch.zeros(2, 0)).shape == (2, 0)


def test_what_is_not_finite_is_seen_in_its_sample_alone():
    a = torch.ones(3, 2, dtype=torch.float64)
    g = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0], [3.0, 4.0]], dtype=torch.float64)
    got = cotangent(RULE, torch.relu, a, g)
    assert got[:2, 0].isnan().all() and got[2].tolist() == [3.0, 4.0]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.Tanh(), nn.Linear(5, 2))


def of_input(model, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf).float().sum(), leaf)[0]


def test_a_sample_does_not_depend_on_its_batch():
    model, x = network().double(), torch.randn(4, 2, 6, 6, dtype=torch.float64)
    lb.convert(model, RULE)
    whole = of_input(model, x)
    for sample in range(4):
        torch.testing.assert_close(of_input(model, x[sample : sample + 1])[0], whole[sample], rtol=1e-10, atol=1e-15)


def test_compiled_and_under_autocast():
    torch.compiler.reset()
    model, x = network(), torch.randn(4, 2, 6, 6)
    lb.convert(model, RULE)
    expected = of_input(model, x)
    torch.testing.assert_close(of_input(torch.compile(model, fullgraph=True, backend="aot_eager"), x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        half = of_input(model, x)
    assert (half - expected).norm() / expected.norm() < 0.05  # bfloat16 has 8 bits, in six operations


def test_it_differentiates_again():
    a = torch.tensor([[0.3, -0.2], [0.7, 1.1]], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=torch.float64, requires_grad=True)

    def of_both(a: Tensor, g: Tensor) -> Tensor:
        return RULE.cotangent(g, a, torch.tanh)

    assert torch.autograd.gradcheck(of_both, (a, g))


def test_what_is_no_rule_is_refused_and_collapse_refuses_it_by_its_name():
    with pytest.raises(lb.LinearBackpropError, match=r"Linear is a class; a rule is an instance"):
        lb.Renormalized(lb.Linear)  # pyright: ignore
    with pytest.raises(lb.LinearBackpropError, match=r"Renormalized cannot follow LocallyExact"):
        lb.Renormalized(lb.LocallyExact(lb.Linear()))
    with pytest.raises(lb.LinearBackpropError, match=r"got Renormalized\(rule=Linear\(\)\); use convert"):
        lb.collapse(network(), RULE)  # pyright: ignore
