"""Layer, group, instance and RMS normalization with constant statistics, a sample at a time in NumPy."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import pytest
import torch
from forms import same_bits
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop._call import Call
from linear_backprop._rules.sample_statistics import ARGUMENTS, MODULES

RULE, EPS = lb.ConstantStatistics(), 1e-5
WEIGHT = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)
SHAPE = (3, 4, 5, 4)  # four channels, and four values along the last dimension


@dataclass(frozen=True)
class Case:
    """A form of a normalization, and over which of SHAPE its statistics are taken, in `groups` of channels."""

    label: str
    run: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
    dims: tuple[int, ...]
    groups: int = 1
    centered: bool = True
    per_channel: bool = False


CASES = [
    Case("F.layer_norm", lambda x, w, b: F.layer_norm(x, (4,), w, b), (3,)),
    Case("F.rms_norm", lambda x, w, b: F.rms_norm(x, (4,), w, EPS), (3,), centered=False),
    Case("F.group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), (1, 2, 3), groups=2, per_channel=True),
    Case("F.instance_norm", lambda x, w, b: F.instance_norm(x, weight=w, bias=b), (2, 3), per_channel=True),
]
for names in ("torch.{}_norm", "aten.{}_norm", "aten.{}_norm.default"):
    owner = torch.ops if names.startswith("aten") else sys.modules[__name__]
    layer, rms, group, instance = (
        attrgetter(names.format(kind))(owner) for kind in ("layer", "rms", "group", "instance")
    )
    CASES += [
        Case(names.format("layer"), lambda x, w, b, f=layer: f(x, (4,), w, b), (3,)),
        Case(names.format("rms"), lambda x, w, b, f=rms: f(x, (4,), w, EPS), (3,), centered=False),
        Case(names.format("group"), lambda x, w, b, f=group: f(x, 2, w, b), (1, 2, 3), groups=2, per_channel=True),
        Case(
            names.format("instance"),
            lambda x, w, b, f=instance: f(x, w, b, None, None, True, 0.1, EPS, False),
            (2, 3),
            per_channel=True,
        ),
    ]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)


def scales(case: Case, x: np.ndarray) -> np.ndarray:
    """weight / sqrt(var + eps) for every value."""
    scale = np.empty_like(x)
    size = x.shape[1] // case.groups
    for sample in range(len(x)):
        for group in range(case.groups):
            part = x[sample, group * size : (group + 1) * size]
            dims = tuple(d - 1 for d in case.dims)
            mean = part.mean(dims, keepdims=True) if case.centered else 0
            variance = ((part - mean) ** 2).mean(dims, keepdims=True)
            scale[sample, group * size : (group + 1) * size] = 1 / np.sqrt(variance + EPS)
    return scale * (WEIGHT.numpy()[:, None, None] if case.per_channel else WEIGHT.numpy())


def ruled(case: Case, x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    with lb.backward_rule(lb.Exact(), layers=[RULE]):
        return case.run(x, w, b)


def sample() -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_every_function_has_a_case():
    assert len(CASES) == len(ARGUMENTS)


@by_case
def test_the_cotangents_are_the_reference_s(case: Case):
    x, w, b = sample().requires_grad_(), WEIGHT.clone().requires_grad_(), (WEIGHT - 1).requires_grad_()
    h, true = ruled(case, x, w, b), case.run(x, w, b)
    assert same_bits(h.detach(), true.detach())
    g = torch.randn(SHAPE, dtype=torch.float64)
    got, of_weight, of_bias = torch.autograd.grad(h, (x, w, b), g, allow_unused=True)
    np.testing.assert_allclose(got.numpy(), g.numpy() * scales(case, x.detach().numpy()), rtol=1e-10)
    exact = torch.autograd.grad(true, (x, w, b), g, allow_unused=True)
    assert not torch.allclose(got, exact[0])
    torch.testing.assert_close(of_weight, exact[1], rtol=1e-10, atol=1e-12)
    assert (of_bias is None) == (exact[2] is None)
    if of_bias is not None:
        torch.testing.assert_close(of_bias, exact[2], rtol=1e-10, atol=1e-12)


@by_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precisions_and_no_parameters(case: Case, dtype: torch.dtype):
    x = sample().to(dtype).requires_grad_()
    h = ruled(case, x, None, None)
    assert same_bits(h.detach(), case.run(x.detach(), None, None))
    (got,) = torch.autograd.grad(h.sum(), x)
    leaf = x.detach().double().requires_grad_()
    (fine,) = torch.autograd.grad(ruled(case, leaf, None, None).sum(), leaf)
    torch.testing.assert_close(got.double(), fine, rtol=4 * torch.finfo(dtype).eps, atol=0.03)


BARE = {  # with every argument left out that may be
    F.layer_norm: ((16, 5),),
    F.rms_norm: ((16, 5),),
    F.group_norm: (4,),
    F.instance_norm: (),
    F.batch_norm: (None, None, None, None, True),
}
by_bare = pytest.mark.parametrize(("function", "arguments"), BARE.items(), ids=lambda x: getattr(x, "__name__", ""))


@by_bare
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_map_is_the_layer_at_every_size_and_precision(function, arguments, dtype, autocast: bool, size: float):
    x = size * torch.randn(8, 16, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    call = Call(function, (x.to(dtype), *arguments), {})
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        h, mapped = call(), RULE.linear_map(call, RULE.constants(call))
    eps = torch.finfo(h.dtype).eps  # h lies between -4 and 4: a few units in its last place
    torch.testing.assert_close(mapped.double(), h.double(), rtol=4 * eps, atol=4 * eps)


@by_bare
def test_an_empty_batch_has_no_gradients(function, arguments):
    x = torch.zeros(0, 16, 5, requires_grad=True)
    with lb.backward_rule(layers=[RULE]):
        h = function(x, *arguments)
    assert torch.autograd.grad(h.sum(), x)[0].shape == x.shape


@by_case
def test_compile_whole_graph(case: Case):
    torch.compiler.reset()
    x, g = sample().requires_grad_(), torch.randn(SHAPE, dtype=torch.float64)
    compiled = torch.compile(lambda x: ruled(case, x, WEIGHT, None), fullgraph=True, backend="aot_eager")
    (got,) = torch.autograd.grad(compiled(x), x, g)
    (expected,) = torch.autograd.grad(ruled(case, x, WEIGHT, None), x, g)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


def modules() -> list[nn.Module]:
    return [
        *(nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 4)),
        *(nn.InstanceNorm1d(4), nn.InstanceNorm2d(4), nn.InstanceNorm3d(4)),
    ]


@pytest.mark.parametrize("module", modules(), ids=lambda m: type(m).__name__)
def test_modules_convert_and_collapse_refuses_them(module: nn.Module):
    assert {type(m) for m in modules()} == set(MODULES)
    shape = {nn.InstanceNorm1d: (3, 4, 4), nn.InstanceNorm3d: (3, 4, 2, 2, 4)}.get(type(module), SHAPE)
    model, x = nn.Sequential(module, nn.Tanh()).double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    exact = torch.autograd.grad(model(x).square().sum(), x)[0]
    with lb.convert(model, lb.Exact(), layers=lb.LINEAR_LAYERS) as conversion:
        got = torch.autograd.grad(model(x).square().sum(), x)[0]
    assert conversion.changed[0].rule == RULE
    assert not torch.allclose(got, exact)
    with pytest.raises(lb.CollapseError, match=rf"{type(module).__name__} at '0' cannot be collapsed"):
        lb.collapse(model, layers=lb.LINEAR_LAYERS)(x)


@by_case
def test_collapse_refuses_a_call_too(case: Case):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.below, self.above = nn.Linear(4, 4), nn.Linear(80, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.above(torch.tanh(case.run(self.below(x), None, None)).flatten(1))

    fast = lb.collapse(Model().double(), layers=lb.LINEAR_LAYERS)
    with pytest.raises(lb.CollapseError):
        fast(torch.randn(12, *SHAPE[1:], dtype=torch.float64)).sum().backward()


def test_instance_norm_by_kept_statistics_is_left_as_it_is():
    layer = nn.InstanceNorm2d(4, track_running_stats=True).double().eval()
    x = sample().requires_grad_()
    expected = torch.autograd.grad(layer(x).square().sum(), x)[0]
    with lb.convert(layer, layers=[RULE]):
        assert torch.equal(torch.autograd.grad(layer(x).square().sum(), x)[0], expected)
