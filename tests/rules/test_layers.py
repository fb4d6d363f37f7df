"""Rules for layers that are not elementwise: values, backward passes, forms, and what PyTorch does to code."""

import functools
import pickle
from dataclasses import dataclass
from typing import Any

import layer_references as references
import numpy as np
import pytest
import torch
from forms import same_bits
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import linear_backprop as lb
from linear_backprop._call import Call
from linear_backprop._rules import sample_statistics
from linear_backprop.diagnostics import saved_bytes

MAXIMUM, STATISTICS, DROPOUT = lb.LINEAR_LAYERS
SIZES = (7, 6, 5)
by_rule = pytest.mark.parametrize("rule", lb.LINEAR_LAYERS, ids=lambda rule: type(rule).__name__)


@dataclass(frozen=True)
class Form:
    """One way to call a layer: `run(x)` calls it out of the blue, on x of shape (N, 4, ...)."""

    label: str
    rule: lb.LayerRule
    function: Any
    dims: int
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    @property
    def in_place(self) -> bool:
        return dict(self.keywords).get("inplace", False) or self.label.removesuffix(".default").endswith("_")

    def input(self, dtype: torch.dtype = torch.float64, samples: int = 3) -> Tensor:
        generator = torch.Generator().manual_seed(self.dims)
        return torch.randn(samples, 4, *SIZES[: self.dims], generator=generator, dtype=torch.float64).to(dtype)

    def run(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return self.call(x)

    def call(self, x: Tensor) -> Tensor:
        x = x * 1 if self.in_place else x
        result = self.function(x, *self.arguments, **dict(self.keywords))
        return result[0] if isinstance(result, tuple) else result

    def ruled(self, x: Tensor) -> Tensor:
        with lb.backward_rule(lb.Exact(), layers=[self.rule]):
            return self.run(x)


def _forms_of_batch_norm() -> list[Form]:
    forms = []
    weight = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)
    for dims in (0, 1, 2, 3):
        keywords = (("weight", weight), ("bias", weight - 1), ("training", True))
        forms.append(Form(f"F.batch_norm({dims})", STATISTICS, F.batch_norm, dims, (None, None), keywords))
    native = (weight, weight - 1, None, None, True, 0.1, 1e-5, False)
    for function in STATISTICS.arguments:
        if function is not F.batch_norm and function not in sample_statistics.ARGUMENTS:
            forms.append(Form(f"torch.{function.__name__}", STATISTICS, function, 2, native))
    for d in (1, 2, 3):
        module = getattr(nn, f"BatchNorm{d}d")(4, track_running_stats=False).double()
        forms.append(Form(f"nn.BatchNorm{d}d", STATISTICS, module, d))
    return forms


def _forms() -> list[Form]:
    forms = []
    for function, arguments in MAXIMUM.arguments.items():
        dims = arguments["dims"]
        given = (3,) if "output_size" in arguments else (3, 2, 1)
        owner = "torch" if getattr(torch, function.__name__, None) is function else "F"
        forms.append(Form(f"{owner}.{function.__name__}", MAXIMUM, function, dims, given))
    for d in (1, 2, 3):
        forms.append(
            Form(f"F.max_pool{d}d(indices)", MAXIMUM, getattr(F, f"max_pool{d}d"), d, (2,), (("return_indices", True),))
        )
        forms.append(Form(f"nn.MaxPool{d}d", MAXIMUM, getattr(nn, f"MaxPool{d}d")(3, 2, 1, 2, ceil_mode=True), d))
        forms.append(Form(f"nn.AdaptiveMaxPool{d}d", MAXIMUM, getattr(nn, f"AdaptiveMaxPool{d}d")(2), d))
    forms += _forms_of_batch_norm()
    for function, arguments in DROPOUT.arguments.items():
        dims = {"dropout1d": 1, "dropout3d": 3}.get(function.__name__, 2)
        if "train" in arguments:
            forms.append(Form(f"torch.{function.__name__}", DROPOUT, function, dims, (0.4, True)))
        else:
            for inplace in (False, True):
                keywords = (("training", True), ("inplace", inplace))
                label = f"F.{function.__name__}{'(inplace)' if inplace else ''}"
                forms.append(Form(label, DROPOUT, function, dims, (0.4,), keywords))
    for module in DROPOUT.modules:
        dims = {nn.Dropout1d: 1, nn.Dropout3d: 3}.get(module, 2)
        forms.append(Form(f"nn.{module.__name__}", DROPOUT, module(0.4), dims))
    return forms


FORMS = _forms()
by_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.label)
# One form of each kind of map, where the form cannot matter.
KINDS = [
    form
    for form in FORMS
    if form.label
    in ("F.max_pool2d", "F.adaptive_max_pool2d", "nn.MaxPool2d", "nn.BatchNorm2d", "F.dropout", "F.dropout(inplace)")
]
by_kind = pytest.mark.parametrize("form", KINDS, ids=lambda form: form.label)


def cotangent(function, x: Tensor, g: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, g)[0]


def jacobian_rows(function, x: Tensor) -> Tensor:
    """The Jacobian of a map of one channel, shape (outputs, inputs): each sample receives one unit vector."""
    shape = function(x[None, None]).shape[2:]
    samples = x.expand(shape.numel(), 1, *x.shape)
    return cotangent(function, samples, torch.eye(shape.numel(), dtype=x.dtype).view(-1, 1, *shape)).flatten(1)


_WINDOW = {"kernel_size": (2, 2, 2), "stride": None, "padding": (0, 0, 0), "dilation": (1, 1, 1), "ceil_mode": False}


@st.composite
def poolings(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    """An input's shape and the arguments of a max pooling that PyTorch allows on it."""
    dims = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel, dilation = each(1, 3), each(1, 3)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    shape = tuple(
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 7)) for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    stride = draw(st.sampled_from([None, each(1, 3)]))
    return shape, {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": draw(st.booleans()),
    }


# Fits only with padding: PyTorch's own backward pass of avg_pool3d refuses it.
@example(((1, 1, 1), {**_WINDOW, "kernel_size": (1, 1, 2), "padding": (0, 0, 1)}))
@given(poolings())
@settings(max_examples=150, deadline=None)
def test_the_jacobian_of_max_pooling_is_average_pooling_s(pooling):
    shape, arguments = pooling
    dims, x = len(shape), torch.randn(shape, dtype=torch.float64)
    strides = arguments["stride"] or arguments["kernel_size"]
    columns = (shape, arguments["kernel_size"], strides, arguments["padding"], arguments["dilation"])
    windows = [
        references.pooling_windows(*along, ceil_mode=arguments["ceil_mode"]) for along in zip(*columns, strict=True)
    ]
    function = functools.partial(getattr(F, f"max_pool{dims}d"), **arguments)
    with lb.backward_rule(layers=[MAXIMUM]):
        values = function(x[None, None])[0, 0]
        got = jacobian_rows(function, x)
    np.testing.assert_array_equal(values.numpy(), references.maximum(x.numpy(), windows))
    # A quotient and up to three products of such: a few units in the last place.
    np.testing.assert_allclose(got.numpy(), references.averaging_matrix(shape, windows), rtol=1e-14)


@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3))
@settings(max_examples=80, deadline=None)
def test_the_jacobian_of_adaptive_max_pooling_is_adaptive_average_pooling_s(sizes):
    shape, outputs = zip(*sizes, strict=True)
    x = torch.randn(shape, dtype=torch.float64)
    windows = [references.adaptive_windows(*along) for along in sizes]
    function = functools.partial(getattr(F, f"adaptive_max_pool{len(shape)}d"), output_size=outputs)
    with lb.backward_rule(layers=[MAXIMUM]):
        values = function(x[None, None])[0, 0]
        got = jacobian_rows(function, x)
    np.testing.assert_array_equal(values.numpy(), references.maximum(x.numpy(), windows))
    np.testing.assert_allclose(got.numpy(), references.averaging_matrix(shape, windows), rtol=1e-14)


def test_a_window_without_a_position_sends_nothing():
    x = torch.zeros(1, 1, 1, requires_grad=True)
    with lb.backward_rule(layers=[MAXIMUM]):
        h = F.max_pool1d(x, 2, 1, 1, dilation=2)  # its positions are -1 and 1
    assert h.tolist() == [[[-torch.inf]]]
    (g,) = torch.autograd.grad(h.sum(), x)
    assert g.item() == 0


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 6), (3, 4, 3, 2), (2, 4, 3, 2, 2)])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_batch_norm_s_cotangents_take_its_statistics_for_constants(shape: tuple[int, ...], eps: float):
    generator = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    x, g, weight, bias = draw(shape) * 2 + 1, draw(shape), draw(4), draw(4)
    leaves = [each.clone().requires_grad_() for each in (x, weight, bias)]
    with lb.backward_rule(layers=[STATISTICS]):
        h = F.batch_norm(leaves[0], None, None, leaves[1], leaves[2], training=True, eps=eps)
    arrays = [each.numpy() for each in (x, g, weight, bias)]
    # Two sums over a channel, added in another order.
    tolerances = {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(
        h.detach().numpy(), references.batch_norm(arrays[0], arrays[2], arrays[3], eps), **tolerances
    )
    expected = references.batch_norm_cotangents(*arrays[:3], eps)
    for got, reference in zip(torch.autograd.grad(h, leaves, g), expected, strict=True):
        np.testing.assert_allclose(got.numpy(), reference, **tolerances)


def test_every_function_and_module_of_a_rule_has_a_form():
    called = {form.function for form in FORMS if not isinstance(form.function, nn.Module)}
    by_sample = sample_statistics.ARGUMENTS.keys()  # which have a file of their own
    assert called == set().union(*(rule.functions for rule in lb.LINEAR_LAYERS)) - by_sample
    run = {type(form.function) for form in FORMS if isinstance(form.function, nn.Module)}
    assert run == set().union(*(rule.modules for rule in lb.LINEAR_LAYERS))


@by_form
def test_values_and_random_numbers_are_the_function_s_own(form: Form):
    x = form.input()
    expected, state = form.run(x.clone().requires_grad_()), torch.get_rng_state()
    got = form.ruled(x.clone().requires_grad_())
    assert same_bits(got.detach(), expected.detach())
    assert torch.equal(torch.get_rng_state(), state)


@by_form
def test_the_cotangent_is_the_linear_map_s(form: Form):
    x = form.input()
    g = torch.randn(form.run(x).shape, dtype=x.dtype)
    got, true = cotangent(form.ruled, x, g), cotangent(form.run, x, g)
    assert not torch.allclose(got, true)
    if form.rule is DROPOUT:
        assert torch.equal(got, g)
    elif form.rule is STATISTICS:
        weight = np.ones(4) if isinstance(form.function, nn.Module) else np.linspace(0.5, 1.5, 4)
        expected = references.batch_norm_cotangents(x.numpy(), g.numpy(), weight, 1e-5)[0]
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-11)
    else:
        # The shares of a window sum to one; which they are is tested on the Jacobians.
        np.testing.assert_allclose(got.sum().item(), g.sum().item(), rtol=1e-12)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 0.0, -0.0])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_ties_infinities_and_nan_change_neither_values_nor_shares(value: float, dims: int):
    x = torch.full((1, 1, *SIZES[:dims]), value)
    x.view(-1)[::3] = 0.0
    pool = getattr(F, f"max_pool{dims}d")
    with lb.backward_rule(layers=[MAXIMUM]):
        h = pool(leaf := x.clone().requires_grad_(), 2)
    assert same_bits(h.detach(), pool(x.clone().requires_grad_(), 2).detach())
    (g,) = torch.autograd.grad(h.sum(), leaf)
    assert set(g.unique().tolist()) <= {0.0, 2.0**-dims}


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("adaptive", [False, True])
def test_indices_are_the_maximum_s(dims: int, adaptive: bool):
    pool = getattr(F, f"{'adaptive_' * adaptive}max_pool{dims}d")
    x = torch.randn(2, 3, *SIZES[:dims], requires_grad=True)
    with lb.backward_rule(layers=[MAXIMUM]):
        values, indices = pool(x, 2, return_indices=True)
    expected = pool(x, 2, return_indices=True)
    assert torch.equal(values, expected[0])
    assert torch.equal(indices, expected[1])


def test_running_statistics_are_updated_once_and_alike():
    torch.manual_seed(0)
    model, x = nn.BatchNorm2d(3), torch.randn(4, 3, 5, 5)
    twin = pickle.loads(pickle.dumps(model))
    lb.convert(model, layers=[STATISTICS])
    for _ in range(2):
        assert same_bits(model(x).detach(), twin(x).detach())
    for got, expected in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5, 5)])
def test_the_kernel_s_statistics_are_the_constants(dtype: torch.dtype, shape: tuple[int, ...]):
    x, weight = torch.randn(shape).to(dtype), torch.ones(4, dtype=dtype)
    arguments = (x, None, None, weight, None, True)
    _, found = STATISTICS.run(Call(F.batch_norm, arguments, {}))
    constants = STATISTICS.constants(Call(F.batch_norm, arguments, {}))
    assert [c.dtype for c in found] == [torch.promote_types(dtype, torch.float32)] * 2
    # The statistics of at most 75 numbers of size one, in float32 at least.
    torch.testing.assert_close(found, constants, rtol=1e-5, atol=1e-6)


def test_too_few_values_for_statistics_are_refused_as_ever():
    with lb.backward_rule(layers=[STATISTICS]), pytest.raises(ValueError, match="Expected more than 1 value"):
        F.batch_norm(torch.randn(1, 4), None, None, training=True)


def test_without_running_statistics_eval_mode_follows_the_rule_too():
    layer = nn.BatchNorm1d(3, track_running_stats=False).eval().double()
    x = torch.randn(5, 3, dtype=torch.float64)
    lb.convert(layer, layers=[STATISTICS])
    g = torch.randn(5, 3, dtype=torch.float64)
    expected = references.batch_norm_cotangents(x.numpy(), g.numpy(), np.ones(3), layer.eps)[0]
    np.testing.assert_allclose(cotangent(layer, x, g).numpy(), expected, rtol=1e-11)


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm2d(4).eval(), nn.Dropout(0.5).eval(), nn.Dropout(0.0), nn.AlphaDropout(0.5).eval()],
    ids=repr,
)
def test_a_layer_that_is_affine_as_it_is_is_left_as_it_is(layer: nn.Module):
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    expected = layer(x).grad_fn
    with lb.backward_rule(layers=lb.LINEAR_LAYERS):
        got = layer(x).grad_fn
    assert type(got) is type(expected)


def test_dropout_and_max_pooling_save_nothing():
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    with lb.backward_rule(layers=lb.LINEAR_LAYERS):
        assert saved_bytes(F.dropout, x) == 0
        assert saved_bytes(lambda x: F.adaptive_max_pool2d(F.max_pool2d(x, 3, 2, 1), 2), x) == 0


def test_in_place_dropout_is_checked_as_pytorch_checks_it():
    leaf = torch.randn(3, requires_grad=True)
    with lb.backward_rule(layers=[DROPOUT]):
        with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
            F.dropout(leaf, inplace=True)
        h = leaf.exp()
        F.dropout(h, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


@by_kind
def test_an_in_place_activation_may_follow(form: Form):
    x = form.input().requires_grad_()
    with lb.backward_rule(lb.Exact(), layers=[form.rule]):
        h = form.run(x)
        expected = torch.autograd.grad(F.relu(h).sum(), x, retain_graph=True)[0]
        got = torch.autograd.grad(F.relu_(h).sum(), x)[0]
    assert torch.equal(got, expected)


@by_kind
def test_compile_whole_graph(form: Form):
    if form.function.__module__ == "torch._C._nn":
        pytest.skip("compiled code does not show a block the calls of kernels")
    torch.compiler.reset()
    x = form.input()
    g = torch.randn(form.run(x).shape, dtype=x.dtype)

    def block(x: Tensor) -> Tensor:
        with lb.backward_rule(layers=[form.rule]):
            return form.call(x)

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(cotangent(compiled, x, g), cotangent(form.ruled, x, g), rtol=1e-12, atol=1e-14)


class Net(nn.Module):
    """Every kind of layer, as a module and called, between activations."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.MaxPool2d(2), nn.Dropout(0.3)
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.adaptive_max_pool2d(F.relu(self.features(x), inplace=True), 1).flatten(1)
        return self.head(F.dropout(h, 0.2, self.training, inplace=True))


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def gradients(model: nn.Module, function, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    return list(torch.autograd.grad(function(x).square().sum(), list(model.parameters())))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_converted_model_compiles_whole(images: Tensor):
    torch.compiler.reset()
    model = net()
    exact = gradients(model, model, images)
    conversion = lb.convert(model, layers=lb.LINEAR_LAYERS)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    linear = gradients(model, model, images)
    torch.testing.assert_close(gradients(model, compiled, images), linear, rtol=1e-12, atol=1e-14)
    conversion.remove()
    torch.testing.assert_close(gradients(model, compiled, images), exact, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(exact[0], linear[0])


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant: bool, images: Tensor):
    model = net()
    lb.convert(model, layers=lb.LINEAR_LAYERS)

    def whole(function) -> list[Tensor]:
        torch.manual_seed(1)
        model.zero_grad()
        function(images.requires_grad_()).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    run = functools.partial(checkpoint, model, use_reentrant=use_reentrant)
    torch.testing.assert_close(whole(run), whole(model))


@by_kind
def test_torch_func_agrees_with_autograd(form: Form):
    x = form.input(samples=2)[..., :4, :4].contiguous()
    loss = lambda z: form.ruled(z).square().sum()  # noqa: E731
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(grad(loss)(x), expected)
    if form.rule is not STATISTICS:  # whose statistics are the batch's: a sample alone has others
        by_sample = vmap(grad(lambda z: loss(z[None])), randomness="same")(x)
        torch.testing.assert_close(by_sample[0], grad(loss)(x[:1])[0])


@by_kind
def test_jacobians_are_the_same_both_ways(form: Form):
    x = form.input(samples=2)[:, :2, :4, :4].contiguous()
    if isinstance(form.function, nn.BatchNorm2d):
        form = Form("", STATISTICS, F.batch_norm, 2, (None, None), (("training", True),))
    rows = jacrev(form.ruled)(x).flatten(0, 3).flatten(1)
    torch.testing.assert_close(jacfwd(form.ruled, randomness="same")(x).flatten(0, 3).flatten(1), rows)
    tangent = torch.randn_like(x)
    moved = jvp(form.ruled, (x,), (tangent,))[1]
    torch.testing.assert_close(moved.flatten(), rows @ tangent.flatten())


@by_kind
def test_the_backward_pass_is_differentiable_again(form: Form):
    x, v = form.input(), torch.randn_like(form.input())
    # y = h^2: the cotangent of x is 2 J^T h, whose derivative along v is 2 J^T J v, J being the linear map's, which
    # takes the statistics for constants here, too.
    leaf = x.clone().requires_grad_()
    h = form.ruled(leaf)
    (first,) = torch.autograd.grad(h.square().sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first, leaf, v)
    pushed = jvp(form.ruled, (x,), (v,))[1]
    torch.testing.assert_close(second, cotangent(form.ruled, x, 2 * pushed))


@by_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precisions(form: Form, dtype: torch.dtype):
    x = form.input(dtype)
    if form.rule is STATISTICS:
        form = Form("", STATISTICS, F.batch_norm, form.dims, (None, None), (("training", True),))
    expected = form.run(x.clone().requires_grad_())
    got = form.ruled(x.clone().requires_grad_())
    assert same_bits(got.detach(), expected.detach())
    g = torch.randn(got.shape, dtype=torch.float64)
    fine = cotangent(form.ruled, x.double(), g) if form.rule is not DROPOUT else g
    torch.testing.assert_close(
        cotangent(form.ruled, x, g.to(dtype)).double(), fine, rtol=4 * torch.finfo(dtype).eps, atol=0.03
    )


@by_kind
def test_channels_last_is_kept(form: Form):
    x = form.input().to(memory_format=torch.channels_last).requires_grad_()
    h = form.ruled(x)
    assert h.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        torch.autograd.grad(h.sum(), x)[0], cotangent(form.ruled, x.detach().contiguous(), torch.ones_like(h))
    )


def test_autocast(images: Tensor):
    model, x = net().float(), images.float()
    twin = pickle.loads(pickle.dumps(model))
    lb.convert(model, layers=lb.LINEAR_LAYERS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(0)
        expected = twin(x)
        torch.manual_seed(0)
        got = model(x)
    assert torch.equal(got, expected)
    got.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_functional_call_under_torch_func(images: Tensor):
    model = net().eval()
    lb.convert(model, layers=lb.LINEAR_LAYERS)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    loss = lambda parameters, x: functional_call(model, parameters, (x,)).square().sum()  # noqa: E731
    got = vmap(grad(loss), in_dims=(None, 0))(parameters, images[:, None])
    for sample in range(len(images)):
        torch.testing.assert_close([g[sample] for g in got.values()], gradients(model, model, images[sample, None]))


@by_rule
def test_rules_are_values(rule: lb.LayerRule):
    assert rule == type(rule)()
    assert hash(rule) == hash(type(rule)())
    assert eval(repr(rule), vars(lb)) == rule
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert rule.formula
    assert rule.source
    assert len({*lb.LINEAR_LAYERS}) == 3


@by_form
def test_what_the_map_reproduces(form: Form):
    if isinstance(form.function, nn.Module):
        return
    x, keywords = form.input(), dict(form.keywords)
    arguments = (x, *form.arguments)
    rule = form.rule
    call = Call(form.function, arguments, keywords)
    assert rule.applies(call)
    h = rule.linear_map(call, rule.constants(call))
    values = form.run(x)
    assert h.shape == values.shape
    assert torch.allclose(h, values, rtol=1e-10) == rule.reproduces_forward


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lb.AveragedMaximum(), r"layers must be a list of layer rules.*write layers=\[AveragedMaximum\(\)\]"),
        ([lb.AveragedMaximum], r"AveragedMaximum is a class; a layer's rule is an instance: AveragedMaximum\(\)"),
        ([lb.Linear()], r"layers holds Linear\(\), which is no layer's rule"),
        ([lb.AveragedMaximum(), lb.AveragedMaximum()], "govern the same functions"),
    ],
)
def test_what_are_no_layer_rules_is_refused(layers, message: str):
    for use in (lambda: lb.backward_rule(layers=layers), lambda: lb.convert(nn.MaxPool2d(2), layers=layers)):
        with pytest.raises(lb.LinearBackpropError, match=message):
            use()


@dataclass(frozen=True)
class StraightThroughSoftmax(lb.LayerRule):
    """A user's own."""

    formula = "g"
    modules = (nn.Softmax,)
    arguments = {F.softmax: {"input": None, "dim": None}}  # noqa: RUF012

    def linear_map(self, call, constants):
        return call.input


def test_a_rule_of_one_s_own_governs_what_is_left_alone_otherwise():
    x, g = torch.randn(2, 3), torch.randn(2, 3)
    model = nn.Sequential(nn.Softmax(-1), nn.Identity())
    conversion = lb.convert(model, layers=[StraightThroughSoftmax()])
    assert [site.rule for site in conversion.changed] == [StraightThroughSoftmax()]
    assert torch.equal(cotangent(model, x, g), g)
    assert torch.equal(model(x), x.softmax(-1))
