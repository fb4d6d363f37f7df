"""What holds for every activation in every form under every rule, generated from the catalogue."""

import gc
import inspect
import weakref

import forms
import numpy as np
import pytest
import references
import torch
from forms import CASES, DETERMINISTIC, OUT_OF_PLACE, REFERENCED, RULES, Case
from torch import nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop._catalogue.activations import FORMS, MODULES
from linear_backprop._catalogue.not_elementwise import TABLE

by_label = pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)

SPECIAL = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 6.0]


def points(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Values on both sides of every kink, none on one."""
    return torch.linspace(-7.03, 7.01, 60, dtype=torch.float64).to(dtype)


def tolerance(name: str) -> float:
    """A few roundings; PyTorch keeps the 1/6 in the derivative of hardsigmoid in single precision."""
    return 1e-7 if name == "hardsigmoid" else 1e-10


def test_the_catalogue_knows_every_activation_module_of_torch():
    public = {getattr(nn.modules.activation, name) for name in nn.modules.activation.__all__}
    left_alone = {module for row in TABLE if row.in_conversion and not row.among_layers for module in row.modules}
    assert public - set(MODULES) - left_alone == set()


def test_the_catalogue_knows_every_function_of_torch_with_an_in_place_form():
    in_place = {
        function
        for name, function in vars(F).items()
        if inspect.isfunction(function)
        and "inplace" in inspect.signature(function).parameters
        and not name.startswith("_")
        and "drop" not in name
    }
    assert len(in_place) >= 12
    assert in_place - set(FORMS) - {F.embedding} == set()


def test_the_references_cover_the_catalogue():
    assert set(references.ACTIVATIONS) == {activation.name for activation in lb.CATALOGUE}


@pytest.mark.parametrize("activation", lb.CATALOGUE, ids=lambda activation: activation.name)
def test_the_catalogue_knows_what_runs_on_the_pre_activation_alone(activation: lb.Activation):
    if activation.has_defaults:
        assert activation.function(points()).shape == points().shape
        lb.Surrogate(activation.name)
    else:
        with pytest.raises((TypeError, RuntimeError)):
            activation.function(points())


@by_rule
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@by_label
def test_forward_is_bit_identical(case: Case, dtype: torch.dtype, rule: lb.BackwardRule):
    values = torch.cat([points(dtype), torch.tensor(SPECIAL, dtype=dtype)])
    torch.manual_seed(0)
    expected = case.run(case.function, values.clone())
    after = torch.rand(3)
    torch.manual_seed(0)
    x = values.clone().requires_grad_()
    got = case.run(lb.with_rule(case.function, rule), x.clone())
    assert forms.same_bits(got.detach(), expected)
    assert torch.equal(torch.rand(3), after), "the random state differs afterwards"


@by_rule
@pytest.mark.parametrize("case", REFERENCED, ids=lambda case: case.label)
def test_cotangent_is_the_reference_s(case: Case, rule: lb.BackwardRule):
    x = points().requires_grad_()
    g = torch.linspace(1, 2, len(x), dtype=torch.float64)
    h = case.run(lb.with_rule(case.function, rule), x.clone())
    (got,) = torch.autograd.grad(h, x, g)
    a = x.detach().numpy()
    f = references.ACTIVATIONS[case.name][0]
    # float64 on both sides: a few roundings apart, exp and erf of two libraries included.
    np.testing.assert_allclose(h.detach().numpy(), f(a), rtol=1e-12, atol=1e-14)
    expected = g.numpy() * forms.factor(rule, case.name)(a)
    # `force`: the gradient of `sgn` is a tensor of zeros without memory.
    np.testing.assert_allclose(got.numpy(force=True), expected, rtol=tolerance(case.name), atol=1e-13)


LAYOUTS = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
    "every other": lambda x: torch.stack([x, x], -1).flatten(3)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@by_label
def test_the_layout_changes_no_gradient_and_is_that_of_the_native_result(case: Case, layout: str):
    g = torch.linspace(1, 2, 60, dtype=torch.float64).view(2, 3, 5, 2)

    def run(function, laid_out) -> tuple[torch.Tensor, torch.Tensor]:
        x = points().view_as(g).requires_grad_()
        torch.manual_seed(0)
        h = case.run(function, laid_out(x * 1))
        return h.detach(), torch.autograd.grad(h, x, g)[0]

    native, _ = run(case.function, LAYOUTS[layout])
    for rule in RULES:
        _, expected = run(lb.with_rule(case.function, rule), lambda x: x)
        values, gradient = run(lb.with_rule(case.function, rule), LAYOUTS[layout])
        assert forms.same_bits(values, native), rule
        assert values.stride() == native.stride(), rule
        # Kernels round differently in other layouts.
        np.testing.assert_allclose(gradient.numpy(force=True), expected.numpy(force=True), 1e-12, err_msg=repr(rule))


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.label)
def test_exact_is_native_autograd_also_where_values_are_special(case: Case):
    values = torch.cat([points(), torch.tensor(SPECIAL, dtype=torch.float64)])
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    (got,) = torch.autograd.grad(case.run(lb.with_rule(case.function, lb.Exact()), ours.clone()).sum(), ours)
    (expected,) = torch.autograd.grad(case.run(case.function, theirs.clone()).sum(), theirs)
    assert forms.same_bits(got, expected)


@pytest.mark.parametrize("activation", [a for a in lb.CATALOGUE if a.kinks], ids=lambda a: a.name)
def test_exact_at_the_kinks_is_as_the_catalogue_states(activation: lb.Activation):
    case = next(c for c in OUT_OF_PLACE if c.name == activation.name)
    x = torch.tensor([a for a, _ in activation.kinks], dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(case.run(lb.with_rule(case.function, lb.Exact()), x).sum(), x)
    np.testing.assert_allclose(got.numpy(), [slope for _, slope in activation.kinks], rtol=1e-15)


@by_label
def test_the_sample_independent_values_at_infinities_and_nan(case: Case):
    special = torch.tensor([float("inf"), -float("inf"), float("nan"), -0.7, 1.3], dtype=torch.float64)
    g = torch.full((5,), 2.0, dtype=torch.float64)
    inf, nan = float("inf"), float("nan")
    stated = {
        lb.Linear(): [2, 2, 2, 2, 2],
        lb.PreActivation(): [inf, -inf, nan, -1.4, 2.6],
        lb.Clipped(low=-0.7, high=1.3): [0, 0, 0, 2, 2],
    }
    for rule, expected in stated.items():
        x = special.clone().requires_grad_()
        (got,) = torch.autograd.grad(case.run(lb.with_rule(case.function, rule), x.clone()), x, g)
        np.testing.assert_array_equal(got.numpy(), np.array(expected, dtype=float))


@pytest.mark.parametrize("training", [False, True])
@by_rule
def test_rrelu_draws_once_and_its_derivative_is_of_that_draw(rule: lb.BackwardRule, training: bool):
    x = points().requires_grad_()
    torch.manual_seed(3)
    h = lb.with_rule(F.rrelu, rule)(x, training=training)
    (got,) = torch.autograd.grad(h.sum(), x)
    a = x.detach().numpy()
    slope = h.detach().numpy() / a
    assert (len(set(slope[a < 0].round(6))) > 5) == training
    if isinstance(rule, lb.Exact | lb.Ratio):
        expected = slope
    elif isinstance(rule, lb.Rescale):  # each of a pair has its own slope
        h = slope * a
        expected = np.tile((h[:30] - h[30:]) / (a[:30] - a[30:]), 2)
    elif isinstance(rule, lb.Renormalized):  # each value is a sample
        expected = np.abs(slope)
    elif isinstance(rule, lb.Blend):
        expected = 0.75 + 0.25 * slope
    else:
        expected = forms.factor(rule, "rrelu")(a)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


@by_rule
def test_prelu_s_weight_gets_its_own_gradient(rule: lb.BackwardRule):
    x = points().requires_grad_()
    ours = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    g = torch.linspace(1, 2, len(x), dtype=torch.float64)
    (got,) = torch.autograd.grad(lb.with_rule(F.prelu, rule)(x, ours), ours, g)
    expected = (g * x.detach().clamp(max=0)).sum()
    torch.testing.assert_close(got, expected[None], rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", OUT_OF_PLACE, ids=lambda case: case.label)
def test_linear_saves_nothing(case: Case):
    x = points().requires_grad_()
    assert lb.diagnostics.saved_bytes(case.run, lb.with_rule(case.function), x) == 0


@by_rule
@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.label)
def test_modes_and_functions_agree(case: Case, rule: lb.BackwardRule):
    x = points().requires_grad_()
    (by_function,) = torch.autograd.grad(case.run(lb.with_rule(case.function, rule), x.clone()).sum(), x)
    with lb.backward_rule(rule):
        h = case.run(case.function, x.clone())
        (by_mode,) = torch.autograd.grad(h.sum(), x)
    assert forms.same_bits(by_function, by_mode)


@by_rule
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("activation", [a for a in lb.CATALOGUE if a.module], ids=lambda a: a.name)
def test_modules_convert(activation: lb.Activation, inplace: bool, rule: lb.BackwardRule):
    if inplace and "inplace" not in inspect.signature(activation.module.__init__).parameters:
        pytest.skip("has no in-place form")
    model = nn.Sequential(forms.module(activation, inplace)).double().eval()
    x = points().requires_grad_()
    expected = model(x.clone())
    keys, hooks = list(model.state_dict()), list(model[0]._forward_hooks)
    with lb.convert(model, rule) as conversion:
        h = model(x.clone())
        (got,) = torch.autograd.grad(h.sum(), x)
        assert [site.path for site in conversion.changed] == ["0"]
    assert forms.same_bits(h.detach(), expected.detach())
    np.testing.assert_allclose(
        got.numpy(),
        forms.factor(rule, activation.name)(x.detach().numpy()),
        rtol=tolerance(activation.name),
        atol=1e-13,
    )
    assert (list(model.state_dict()), list(model[0]._forward_hooks)) == (keys, hooks)
    (restored,) = torch.autograd.grad(model(x.clone()).sum(), x)
    (native,) = torch.autograd.grad(expected.sum(), x)
    assert forms.same_bits(restored, native)


@by_rule
@pytest.mark.parametrize("form", ["out of place", "in place", "block"])
def test_a_subclass_of_tensor_comes_back_as_pytorch_returns_it(rule: lb.BackwardRule, form: str):
    class Labelled(torch.Tensor):
        """Says with every result what made it, as classes that carry metadata do."""

        label = ""

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            result = super().__torch_function__(func, types, args, kwargs)
            if isinstance(result, cls):
                result.label = args[0].label
            return result

    leaf = points().requires_grad_()
    x = leaf.clone().as_subclass(Labelled)
    x.label = "kept"
    if form == "block":
        with lb.backward_rule(rule):
            h = torch.tanh(x)
    else:
        h = lb.with_rule(torch.tanh if form == "out of place" else torch.tanh_, rule)(x)
    assert type(h) is Labelled and h.label == "kept"
    (got,) = torch.autograd.grad(h.as_subclass(torch.Tensor).sum(), leaf)
    expected = forms.factor(rule, "tanh")(leaf.detach().numpy())
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10)


@by_rule
def test_clamp_broadcasts_its_bounds(rule: lb.BackwardRule):
    x = torch.tensor([[-2.0], [0.5]], dtype=torch.float64, requires_grad=True)
    low = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    h = lb.with_rule(torch.clamp, rule)(x, min=low)
    assert torch.equal(h, torch.clamp(x, min=low))
    of_x, of_low = torch.autograd.grad(h.sum(), (x, low))
    a = x.detach().numpy()
    slopes = 1.0 * (a >= low.detach().numpy())
    h = np.maximum(a, low.detach().numpy())
    factor = {
        lb.Exact(): slopes,
        lb.Blend(lb.Linear(), lb.Exact(), 0.25): 0.75 + 0.25 * slopes,
        lb.Ratio(): h / a,
        lb.Rescale(): np.tile((h[0] - h[1]) / (a[0] - a[1]), (2, 1)),
        lb.Renormalized(lb.Linear()): np.sqrt((slopes**2).mean(1, keepdims=True)) * np.ones(3),
    }.get(rule)
    if factor is None:
        factor = forms.factor(rule, "clamp")(a) * np.ones(3)
    np.testing.assert_allclose(of_x.numpy(), factor.sum(1, keepdims=True), rtol=1e-12)
    assert of_low.tolist() == [1.0, 1.0, 2.0]


def test_linear_keeps_no_argument_alive():
    x, low = points().requires_grad_(), torch.zeros(60, dtype=torch.float64)
    alive = weakref.ref(low)
    h = lb.with_rule(torch.clamp)(x, min=low)
    del low
    gc.collect()
    assert alive() is None
    h.sum().backward()
