"""Rules under everything PyTorch does to code: compilation, torch.func, checkpointing, autocast, export."""

import functools
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from forms import CASES, RULES
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import linear_backprop as lb

by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


class Block(nn.Module):
    """Module, functional, method and in-place activations in one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Linear(5, 6)
        self.prelu = nn.PReLU()
        self.above = nn.Sequential(nn.Linear(6, 6), nn.SiLU(inplace=True), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.below(x), approximate="tanh")
        h = F.elu(self.below(x).tanh() + h, inplace=True)
        return self.above(self.prelu(h) + torch.sigmoid(h)).clamp(min=-0.3)


def block() -> Block:
    torch.manual_seed(0)
    return Block().double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, function, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(function(x).square().sum(), list(model.parameters())))


@by_rule
def test_compile_whole_graph(rule: lb.BackwardRule, x: Tensor):
    torch.compiler.reset()
    model = block()
    lb.convert(model, rule)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(model, compiled, x), gradients(model, model, x), rtol=1e-12, atol=1e-14)


@by_rule
def test_every_form_compiles_into_one_graph(rule: lb.BackwardRule):
    torch.compiler.reset()
    forms = [case for case in CASES if not case.label.startswith("aten.")]  # see below
    x = torch.linspace(-4, 4, 12, dtype=torch.float64).expand(len(forms), -1).clone().requires_grad_()

    def run(x: Tensor) -> Tensor:
        return torch.stack(
            [case.run(lb.with_rule(case.function, rule), z * 1) for case, z in zip(forms, x, strict=True)]
        )

    drawn = torch.tensor(["training" in case.label for case in forms])  # compiled, RReLU draws other numbers
    expected, got = run(x), torch.compile(run, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(got[~drawn], expected[~drawn], rtol=1e-12, atol=1e-14)
    (of_expected,), (of_got,) = (torch.autograd.grad(h.sum(), x) for h in (expected, got))
    torch.testing.assert_close(of_got[~drawn], of_expected[~drawn], rtol=1e-12, atol=1e-14)
    slopes = torch.where(x > 0, 1, got / x).detach()[drawn]
    if isinstance(rule, lb.Blend):
        torch.testing.assert_close(of_got[drawn], 0.75 + 0.25 * slopes, rtol=1e-12, atol=1e-14)


def test_every_form_follows_a_compiled_block():
    torch.compiler.reset()
    forms = [case for case in CASES if not (case.label.startswith("aten.") or "training" in case.label)]
    x = torch.linspace(-4, 4, 12, dtype=torch.float64).expand(len(forms), -1).clone().requires_grad_()

    @lb.backward_rule(lb.PreActivation())
    def run(x: Tensor) -> Tensor:
        return torch.stack([case.run(case.function, z * 1) for case, z in zip(forms, x, strict=True)])

    (g,) = torch.autograd.grad(torch.compile(run, fullgraph=True, backend="aot_eager")(x).sum(), x)
    wrong = [case.label for case, found in zip(forms, g, strict=True) if not torch.allclose(found, x[0].detach())]
    assert not wrong


class Assembled(nn.Module):
    """Activations of tensors that require grad because a view of them was overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.above = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape)
        h[:, 1:].copy_(self.below(x)[:, :-1])
        z = torch.zeros_like(h)
        z[:, 2:].add_(torch.tanh(h)[:, :3])
        return self.above(F.dropout(z, 0.5))


@pytest.mark.parametrize("layers", [(), (lb.StraightThroughDropout(),)], ids=["activations", "layers"])
def test_what_requires_grad_since_it_was_overwritten_follows_when_compiled(layers: tuple[lb.LayerRule, ...]):
    torch.compiler.reset()
    torch.manual_seed(0)
    model = Assembled().double()
    lb.convert(model, layers=layers)
    x = torch.randn(4, 5, dtype=torch.float64)
    compiled = torch.compile(model, fullgraph=True, backend="eager")

    def found(run: Callable[[Tensor], Tensor]) -> list[Tensor]:
        torch.manual_seed(1)
        return list(torch.autograd.grad(run(x).sum(), list(model.parameters())))

    torch.testing.assert_close(found(compiled), found(model))


@pytest.mark.parametrize("kernel", [torch.ops.aten.tanh, torch.ops.aten.silu.default, torch.ops.aten.clamp], ids=str)
def test_kernels_compile_into_one_graph(kernel, x: Tensor):
    torch.compiler.reset()
    x = x.clone().requires_grad_()
    arguments = (-0.5, 0.5) if kernel is torch.ops.aten.clamp else ()

    @lb.backward_rule(lb.PreActivation())
    def run(x: Tensor) -> Tensor:
        return kernel(x, *arguments)

    (g,) = torch.autograd.grad(torch.compile(run, fullgraph=True, backend="aot_eager")(x).sum(), x)
    torch.testing.assert_close(g, x.detach())


class Entered(nn.Module):
    """Code that is entered by a method, checkpointed, decorated and without grad."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.below, self.above = nn.Linear(5, 4).double(), nn.Linear(4, 2).double()

    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.below(x))

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(self.encode, x, use_reentrant=False)
        return self.above(h + self.encode(x)).sigmoid()


@by_rule
@pytest.mark.parametrize("way", ["forward", "method", "without grad", "block"])
def test_every_way_in_compiles_into_one_graph(rule: lb.BackwardRule, way: str, x: Tensor):
    torch.compiler.reset()
    model, x = Entered(), x.clone().requires_grad_()
    if way != "block":
        lb.convert(model, rule)
    run = {
        "forward": model,
        "method": model.encode,
        "without grad": torch.no_grad()(lambda x: model(x)),
        "block": lb.backward_rule(rule)(model.encode),
    }[way]
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), run(x))
    if way != "without grad":
        ours, theirs = (torch.autograd.grad(f(x).square().sum(), x) for f in (compiled, run))
        torch.testing.assert_close(ours, theirs)


def test_compile_with_inductor(x: Tensor):
    torch.compiler.reset()
    model = block()
    lb.convert(model)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(gradients(model, compiled, x), gradients(model, model, x), rtol=1e-12, atol=1e-14)


def test_compiled_code_notices_a_conversion_its_removal_and_a_block(x: Tensor):
    torch.compiler.reset()
    model = block()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    exact = gradients(model, model, x)
    torch.testing.assert_close(gradients(model, compiled, x), exact)
    with lb.convert(model):
        linear = gradients(model, model, x)
        torch.testing.assert_close(gradients(model, compiled, x), linear)
    torch.testing.assert_close(gradients(model, compiled, x), exact)
    with lb.backward_rule():
        torch.testing.assert_close(gradients(model, compiled, x), linear)
    torch.testing.assert_close(gradients(model, compiled, x), exact)
    assert not torch.allclose(linear[0], exact[0])


def test_a_blend_s_weight_changes_without_recompiling(x: Tensor):
    torch.compiler.reset()
    model = block()
    weight = torch.tensor(0.0, dtype=torch.float64)
    lb.convert(model, lb.Blend(lb.Linear(), lb.Exact(), weight))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    gradients(model, compiled, x)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for value in (0.25, 1.0):
            weight.fill_(value)
            torch.testing.assert_close(gradients(model, compiled, x), gradients(model, model, x))


# Under `Rescale` a sample alone has no baseline, under `Renormalized` each of its units has a norm of its own.
OF_SAMPLES = (lb.Rescale, lb.Renormalized)


@pytest.mark.parametrize("rule", [r for r in RULES if not isinstance(r, OF_SAMPLES)], ids=lambda r: type(r).__name__)
def test_torch_func_agrees_with_autograd(rule: lb.BackwardRule, x: Tensor):
    model = block()
    lb.convert(model, rule)
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, parameters, (x,)).square().sum()

    detached = {name: p.detach() for name, p in parameters.items()}
    torch.testing.assert_close(list(grad(loss)(detached, x).values()), gradients(model, model, x))
    a_sample = vmap(grad(loss), in_dims=(None, 0))(detached, x)
    for sample in range(len(x)):
        expected = gradients(model, model, x[sample])
        torch.testing.assert_close([g[sample] for g in a_sample.values()], expected)


@by_rule
@pytest.mark.parametrize("function", [torch.tanh, F.relu, functools.partial(F.silu, inplace=False)])
def test_jacobians_are_diagonal_and_the_same_both_ways(rule: lb.BackwardRule, function):
    ruled = lb.with_rule(function, rule)
    z = torch.linspace(-2.03, 1.9, 6, dtype=torch.float64)
    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(ruled(leaf).sum(), leaf)
    torch.testing.assert_close(jacrev(ruled)(z), torch.diag(expected))
    torch.testing.assert_close(jacfwd(ruled)(z), torch.diag(expected))
    torch.testing.assert_close(jvp(ruled, (z,), (torch.ones_like(z),))[1], expected)
    with torch.autograd.forward_ad.dual_level():
        dual = ruled(torch.autograd.forward_ad.make_dual(z, torch.ones_like(z)))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, expected)


def test_prelu_s_weight_in_forward_mode():
    x, w = torch.tensor([-2.0, 3.0]), torch.tensor([0.25])
    _, tangent = jvp(lambda w: lb.with_rule(F.prelu)(x, w), (w,), (torch.ones(1),))
    assert tangent.tolist() == [-2.0, 0.0]


def test_double_backward_of_linear_is_the_linear_network_s():
    x = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    # y = tanh(x)^2: the first cotangent is 2 tanh(x), whose own derivative under Linear is 2.
    (first,) = torch.autograd.grad(lb.with_rule(torch.tanh)(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    np.testing.assert_allclose(first.detach().numpy(), 2 * np.tanh(x.detach().numpy()))
    np.testing.assert_allclose(second.numpy(), [2.0, 2.0])
    by_func = hessian(lambda z: lb.with_rule(torch.tanh)(z).square().sum())(x.detach())
    np.testing.assert_allclose(by_func.numpy(), 2 * np.eye(2))


@pytest.mark.parametrize("use_reentrant", [False, True])
@by_rule
def test_activation_checkpointing(rule: lb.BackwardRule, use_reentrant: bool, x: Tensor):
    model = block()
    lb.convert(model, rule)
    inputs = x.requires_grad_()
    run = functools.partial(checkpoint, model, use_reentrant=use_reentrant)

    def whole(function):
        model.zero_grad()
        function(inputs).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    torch.testing.assert_close(whole(run), whole(model))


def test_a_block_with_checkpointing_may_be_given_again(x: Tensor):
    model = block()
    again = functools.partial(checkpoint, context_fn=lambda: (nullcontext(), lb.backward_rule()))
    with lb.backward_rule():
        expected = gradients(model, model, x)
        for function in (again, checkpoint):
            got = gradients(model, lambda x, f=function: f(model, x, use_reentrant=False), x)
            torch.testing.assert_close(got, expected)


@by_rule
def test_autocast_compiles(rule: lb.BackwardRule):
    torch.compiler.reset()
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(5, 6), nn.PReLU(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2)),
        torch.randn(4, 5),
    )
    lb.convert(model, rule)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = []
    for run in (model, compiled):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = run(x)
        found.append(torch.autograd.grad(h.float().sum(), list(model.parameters())))
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0.05)  # bfloat16, fused otherwise


@by_rule
def test_autocast(rule: lb.BackwardRule):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Softplus(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2))
    x = torch.randn(4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(x)
        lb.convert(model, rule)
        got = model(x)
    assert torch.equal(got, expected)
    got.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_export_keeps_the_forward_pass_and_drops_the_rule(x: Tensor):
    model = block()
    exact = gradients(model, model, x)
    lb.convert(model)
    exported = torch.export.export(model, (x,)).module()
    assert torch.equal(exported(x), model(x))
    parameters = list(exported.parameters())
    got = torch.autograd.grad(exported(x).square().sum(), parameters)
    torch.testing.assert_close(
        {n: g for (n, _), g in zip(exported.named_parameters(), got, strict=True)},
        {n: g for (n, _), g in zip(model.named_parameters(), exact, strict=True)},
    )


@pytest.mark.parametrize("function", [torch.nn.functional.silu, torch.sin, torch.tanh])
@by_rule
def test_a_pullback_that_is_called_after_its_transform(rule: lb.BackwardRule, function):
    ruled, x = lb.with_rule(function, rule), torch.randn(4, 6, dtype=torch.float64)
    if isinstance(rule, lb.MeanLinear | lb.Renormalized):
        x = x[:, None]  # a batch of one
    g = torch.ones_like(x[0])
    got = vmap(lambda each: vjp(ruled, each)[1](g)[0])(x)
    leaves = [each.clone().requires_grad_() for each in x]
    torch.testing.assert_close(got, torch.stack([torch.autograd.grad(ruled(each), each, g)[0] for each in leaves]))


@by_rule
def test_channels_last_is_kept(rule: lb.BackwardRule):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.SiLU(inplace=True))
    lb.convert(model.to(memory_format=torch.channels_last), rule)
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    assert model(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@by_rule
def test_cuda_agrees_with_the_cpu(rule: lb.BackwardRule, x: Tensor):
    model = block()
    lb.convert(model, rule)
    expected = gradients(model, model, x)
    model = model.cuda()
    got = [g.cpu() for g in gradients(model, model, x.cuda())]
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
