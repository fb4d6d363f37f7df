"""Rules as values, by name, and on the network of the paper's Algorithms 1 and 2."""

import copy
import dataclasses
import itertools
import pickle
from dataclasses import dataclass
from functools import partial

import forms
import numpy as np
import pytest
import references
import torch
from forms import RULES
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb

by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


@dataclass(frozen=True)
class Damped(lb.BackwardRule):
    """A user's own."""

    formula = "factor g"
    source = "an example"
    factor: float = 0.5

    def cotangent(self, g, a, f):
        return self.factor * g


@by_rule
def test_rules_are_values(rule: lb.BackwardRule):
    for twin in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule)), eval(repr(rule), vars(lb))):
        assert twin == rule
        assert hash(twin) == hash(rule)
        assert repr(twin) == repr(rule)
    assert lb.rule_from_name(repr(rule)) == rule
    assert sum(rule == other for other in RULES) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.anything = 1  # pyright: ignore


@by_rule
def test_every_rule_says_what_it_is_and_where_it_is_from(rule: lb.BackwardRule):
    assert rule.formula
    assert rule.source


def test_rules_by_name():
    assert lb.rule_from_name("linear") == lb.Linear()
    assert lb.rule_from_name("pre-activation") == lb.rule_from_name("PreActivation") == lb.PreActivation()
    assert lb.rule_from_name("damped") == Damped()
    assert lb.rule_from_name("Clipped(-2, high=3.5)") == lb.Clipped(-2, 3.5)
    nested = lb.rule_from_name("Blend(Linear(), Clipped(low=-2.0), weight=0.5)")
    assert nested == lb.Blend(lb.Linear(), lb.Clipped(low=-2.0), 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linaer", "no rule is named 'linaer'; the rules are Exact, Linear, PreActivation"),
        ("Clipped(lo=1)", "Clipped does not take these arguments"),
        ("Clipped(low=", "cannot read the rule"),
        ("Clipped(low=__import__('os'))", "no rule is named '__import__'"),
        ("Clipped(low=x)", "cannot read the rule"),
        ("Surrogate('swoosh')", "no activation is named 'swoosh'; the catalogue has relu"),
        ("surrogate", "Surrogate does not take these arguments"),
    ],
)
def test_unreadable_rules_are_refused(text: str, message: str):
    with pytest.raises(lb.LinearBackpropError, match=message.replace("(", r"\(").replace(")", r"\)")):
        lb.rule_from_name(text)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lb.Clipped(2.0, 1.0), "low < high, got low=2.0, high=1.0"),
        (lambda: lb.Blend(lb.Linear(), lb.Exact(), 1.5), r"\[0, 1\], got 1.5"),
        (lambda: lb.Blend(lb.Linear(), lb.Exact(), torch.ones(3)), r"0-dimensional tensor .* shape \(3,\)"),
        (
            lambda: lb.Blend(lb.Linear, lb.Exact(), 0.5),
            r"Linear is a class; a rule is an instance: Linear\(\)",
        ),
        (lambda: lb.Surrogate(3), "a function or an activation's name, got 3"),
        (lambda: lb.Surrogate("clamp"), "got clamp, which needs further arguments"),
        (lambda: lb.Surrogate(F.prelu), "got prelu, which needs further arguments"),
        (lambda: lb.Surrogate(nn.ReLU), "got the class ReLU; give one such as torch.sigmoid"),
        (lambda: lb.Surrogate(torch.softmax), "Surrogate takes an elementwise function, which .*softmax is not"),
        (lambda: lb.Surrogate(partial(F.glu, dim=0)), "Surrogate takes an elementwise function, which"),
        (lambda: lb.Surrogate(lambda z, slope: z * slope), "of the pre-activation alone, .* argument: 'slope'"),
        (lambda: surrogate_gradient(torch.sum), r"Surrogate needs a function that keeps .* made \(\) of \(2,\)"),
        (lambda: surrogate_gradient(lambda z: (z, z)), "Surrogate needs a function that returns one tensor"),
        (lambda: surrogate_gradient(lambda z: z > 0), "Surrogate needs a function .* returned torch.bool"),
        (
            lambda: lb.with_rule(torch.tanh, "linear"),
            r"expected a backward rule such as Linear\(\), got 'linear'",
        ),
        (lambda: lb.with_rule(nn.Tanh()), r"got Tanh\(\); use convert"),
        (lambda: lb.with_rule(3), "with_rule takes a function such as torch.relu, got 3"),
        (lambda: lb.with_rule(torch.tanh)(), "as its first positional argument"),
        (lambda: lb.with_rule(torch.sum)(torch.ones(3)), r"made \(\) of \(3,\)"),
        (lambda: lb.backward_rule(lb.Linear), "Linear is a class"),
    ],
)
def test_bad_arguments_are_refused(build, message: str):
    with pytest.raises(lb.LinearBackpropError, match=message):
        build()


def surrogate_gradient(function) -> Tensor:
    x = torch.tensor([-2.0, 0.5], dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(lb.with_rule(torch.relu, lb.Surrogate(function))(x).sum(), x)[0]


def test_a_surrogate_may_overwrite_what_it_is_given():
    slope = 1 - torch.tensor([-2.0, 0.5], dtype=torch.float64).tanh() ** 2
    for function in (torch.tanh_, torch.Tensor.tanh_, lambda z: z.tanh_()):
        torch.testing.assert_close(surrogate_gradient(function), slope, rtol=1e-12, atol=0)
    assert surrogate_gradient(lambda z: z.mul_(3)).tolist() == [3.0, 3.0]


def test_surrogates_of_catalogued_functions_are_kept_by_name():
    assert lb.Surrogate(F.silu) == lb.Surrogate("silu")
    assert lb.Surrogate(torch.Tensor.tanh) == lb.Surrogate(torch.tanh_) == lb.Surrogate("tanh")
    own = lb.Surrogate(references.silu_derivative)
    assert own != lb.Surrogate("silu")
    assert repr(own) == "Surrogate(function=silu_derivative)"


def test_a_blend_s_tensor_weight_changes_in_place():
    weight = torch.tensor(0.0)
    rule = lb.Blend(lb.Linear(), lb.PreActivation(), weight)
    before = hash(rule)
    x = torch.tensor([3.0], requires_grad=True)
    seen = []
    for value in (0.0, 0.5, 1.0):
        weight.fill_(value)
        (g,) = torch.autograd.grad(lb.with_rule(torch.tanh, rule)(x), x)
        seen.append(g.item())
    assert seen == [1.0, 2.0, 3.0]
    assert hash(rule) == before
    assert repr(rule) == "Blend(first=Linear(), second=PreActivation(), weight=torch.tensor(1.0))"


def test_a_user_s_own_rule():
    x = torch.tensor([-2.0, 2.0], requires_grad=True)
    (g,) = torch.autograd.grad(lb.with_rule(torch.relu, Damped(0.25))(x).sum(), x)
    assert g.tolist() == [0.25, 0.25]


def test_a_user_s_own_function():
    x = torch.tensor([-2.0, 2.0], requires_grad=True)
    (g,) = torch.autograd.grad(lb.with_rule(lambda z: (z > 0).to(z.dtype))(x).sum(), x)
    assert g.tolist() == [1.0, 1.0]


def test_linear_is_the_true_gradient_of_the_identity():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lb.with_rule(torch.clone, lb.Linear()), x)


@pytest.mark.parametrize("name", ["tanh", "gelu", "softplus", "silu"])
def test_a_blend_of_exact_with_itself_is_the_true_gradient_twice_over(name: str):
    rule = lb.Blend(lb.Exact(), lb.Exact(), 0.5)
    function = lb.with_rule(getattr(F, name), rule)
    x = torch.randn(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, x)


@pytest.mark.parametrize("name", ["tanh", "relu", "sigmoid", "gelu"])
@pytest.mark.parametrize("rule", forms.FACTORS, ids=lambda rule: type(rule).__name__)
def test_an_mlp_follows_the_algorithms(rule: lb.BackwardRule, name: str):
    generator = np.random.default_rng(0)
    widths = [3, 5, 4, 2]
    reference = references.MLP(
        [generator.normal(size=(m, n)) for n, m in itertools.pairwise(widths)],
        [generator.normal(size=m) for m in widths[1:]],
    )
    x, y = generator.normal(size=(6, 3)), generator.normal(size=(6, 2))
    f = references.ACTIVATIONS[name][0]
    of_weights, of_biases = reference.gradients(x, y, f, forms.factor(rule, name))

    layers: list[nn.Module] = []
    activation = next(a for a in lb.CATALOGUE if a.name == name)
    for w, b in zip(reference.weights, reference.biases, strict=True):
        layer = nn.Linear(w.shape[1], w.shape[0]).double()
        layer.weight.data, layer.bias.data = torch.from_numpy(w), torch.from_numpy(b)
        layers += [layer, forms.module(activation)]
    model = nn.Sequential(*layers[:-1])
    lb.convert(model, rule)
    ((model(torch.from_numpy(x)) - torch.from_numpy(y)) ** 2).sum().div(2).backward()
    for layer, w, b in zip(layers[::2], of_weights, of_biases, strict=True):
        # float64 sums in another order.
        np.testing.assert_allclose(layer.weight.grad.numpy(), w, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(layer.bias.grad.numpy(), b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", forms.REFERENCED, ids=lambda case: case.label)
@pytest.mark.parametrize(("shape", "units"), [((30, 2), 1), ((5, 2, 2, 3), 1), ((3, 10, 2), -1)])
def test_mean_linear_takes_the_mean_slope_of_each_unit(case: forms.Case, shape: tuple[int, ...], units: int):
    x = torch.linspace(-7.03, 7.01, 60, dtype=torch.float64).reshape(shape).requires_grad_()
    g = torch.linspace(1, 2, 60, dtype=torch.float64).reshape(shape)
    ruled = lb.with_rule(case.function, lb.MeanLinear(units))
    (got,) = torch.autograd.grad(case.run(ruled, x.clone()), x, g)
    slopes = references.ACTIVATIONS[case.name][1](x.detach().numpy())
    others = tuple(d for d in range(len(shape)) if d != units % len(shape))
    expected = g.numpy() * slopes.mean(axis=others, keepdims=True)
    # PyTorch keeps the 1/6 in the derivative of hardsigmoid in single precision.
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-7 if case.name == "hardsigmoid" else 1e-10, atol=1e-13)


@pytest.mark.parametrize(("shape", "units"), [((4,), 1), ((4, 3), 2), ((4, 3), -3)])
def test_mean_linear_refuses_what_has_no_units(shape: tuple[int, ...], units: int):
    h = lb.with_rule(torch.tanh, lb.MeanLinear(units))(torch.ones(shape, requires_grad=True))
    with pytest.raises(lb.LinearBackpropError, match=rf"MeanLinear\(units={units}\) needs a batch dimension"):
        h.sum().backward()


def test_mean_linear_compiles_and_converts():
    torch.compiler.reset()
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 3)).double()
    lb.convert(model, lb.MeanLinear())
    x = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    expected = torch.autograd.grad(model(x).square().sum(), model.parameters())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(x).square().sum(), model.parameters())
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
