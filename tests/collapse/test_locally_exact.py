"""`LocallyExact` collapsed, against NumPy by hand and against chains that are not collapsed."""

import copy
import itertools
from collections.abc import Callable

import forms
import numpy as np
import pytest
import references
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb

N, C = 30, 4
CHAINS = [lb.Linear(), lb.MeanLinear()]


class Residual(nn.Module):
    """Activations are modules, so that the reference can hook them."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.acts = nn.ModuleList([nn.SiLU(inplace), nn.PReLU(6), nn.ELU(inplace=inplace)])
        self.head = nn.Linear(6, C)

    def forward(self, x: Tensor) -> Tensor:
        h = self.acts[0](self.norm(self.first(x)))
        h = self.acts[1](self.second(h) + 0.5 * h)
        h = self.acts[2](self.second(h) + h)
        return self.head(h.mean((2, 3)))


def residual(inplace: bool = False) -> Residual:
    torch.manual_seed(0)
    model = Residual(inplace).double().eval()
    nn.init.normal_(model.norm.running_mean)
    return model


def uncollapsed(model: Residual, chain: lb.BackwardRule, x: Tensor, loss_fn) -> dict[str, Tensor]:
    """Every sample's own chain by `convert`; then each affine part's gradient from it times f'(a)."""
    h_of, a_of = {}, {}

    def keep(module, args, out):
        out.retain_grad()
        h_of[module], a_of[module] = out, args[0].detach()

    hooks = [act.register_forward_hook(keep) for act in model.acts]
    with lb.convert(model, chain):
        y = model(x)
    leaf = y.detach().requires_grad_()
    (g,) = torch.autograd.grad(loss_fn(leaf), leaf)
    y.backward(g)
    for hook in hooks:
        hook.remove()
    model.zero_grad()

    parts: dict[nn.Module, Tensor] = {}
    weights = []

    def cut(module, args, out):
        parts[module] = args[0]
        if isinstance(module, nn.PReLU):
            own = F.prelu(args[0].detach(), module.weight)
            weights.append((own, h_of[module].grad))
        return out.detach()

    hooks = [act.register_forward_hook(cut) for act in model.acts]
    y = model(x)
    for hook in hooks:
        hook.remove()
    outputs, cotangents = [y], [g]
    for act in model.acts:
        a = a_of[act].requires_grad_()
        (slope,) = torch.autograd.grad(act(a * 1).sum(), a)
        outputs.append(parts[act])
        cotangents.append(h_of[act].grad * slope)
    for own, cotangent in weights:
        outputs.append(own)
        cotangents.append(cotangent)
    found = torch.autograd.grad(outputs, list(model.parameters()), cotangents)
    return dict(zip(dict(model.named_parameters()), found, strict=True))


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_a_residual_convnet_s_gradients(chain):
    model = residual()
    x = torch.randn(N, 3, 8, 8, dtype=torch.float64)
    target = torch.randint(C, (N,))
    loss_fn = lambda y: F.cross_entropy(y, target)  # noqa: E731
    expected = uncollapsed(model, chain, x, loss_fn)
    fast = lb.collapse(model, lb.LocallyExact(chain))
    y = fast(x)
    assert torch.equal(y, model(x))
    loss_fn(y).backward()
    got = {name: p.grad for name, p in model.named_parameters()}
    # float64 sums in another order.
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_in_place_activations_change_nothing(chain):
    x = torch.randn(N, 3, 8, 8, dtype=torch.float64)
    found = []
    for inplace in (False, True):
        model = residual(inplace)
        lb.collapse(model, lb.LocallyExact(chain))(x).square().mean().backward()
        found.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu"])
@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_an_mlp_by_hand(chain: lb.BackwardRule, name: str):
    generator = np.random.default_rng(0)
    widths = [3, 6, 5, 2]
    weights = [generator.normal(size=(m, n)) for n, m in itertools.pairwise(widths)]
    x, y = generator.normal(size=(12, 3)), generator.normal(size=(12, 2))
    f, derivative = references.ACTIVATIONS[name]

    activations, slopes = [x], []
    for w in weights[:-1]:
        a = activations[-1] @ w.T
        slopes.append(derivative(a))
        activations.append(f(a))
    g = activations[-1] @ weights[-1].T - y
    expected = [g.T @ activations[-1]]
    chained = g @ weights[-1]
    for k in (1, 0):
        expected.insert(0, (chained * slopes[k]).T @ activations[k])
        mean = slopes[k].mean(0) if isinstance(chain, lb.MeanLinear) else 1.0
        chained = (chained * mean) @ weights[k]

    activation = next(each for each in lb.CATALOGUE if each.name == name)
    layers: list[nn.Module] = []
    for w in weights:
        layers += [
            nn.Linear(w.shape[1], w.shape[0], bias=False).double(),
            forms.module(activation),
        ]
        layers[-2].weight.data = torch.from_numpy(w)
    model = nn.Sequential(*layers[:-1])
    inputs = torch.from_numpy(x).requires_grad_()
    ((lb.collapse(model, lb.LocallyExact(chain))(inputs) - torch.from_numpy(y)) ** 2).sum().div(2).backward()
    for layer, w in zip(layers[::2], expected, strict=True):
        np.testing.assert_allclose(layer.weight.grad.numpy(), w, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(inputs.grad.numpy(), chained, rtol=1e-10, atol=1e-12)


SPELLED = {
    f"{case.label} {keyword}": (case, keyword)
    for case in forms.DETERMINISTIC
    for keyword in ("input", "self")
    if case.spelled(keyword)
}


class Between(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.first, self.last = function, nn.Linear(3, 8).double(), nn.Linear(8, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize("name", SPELLED)
def test_an_activation_s_input_may_be_named(name: str):
    case, keyword = SPELLED[name]
    placed, named = Between(lambda x: case.run(case.function, x)), Between(case.spelled(keyword))
    x = torch.randn(N, 3, dtype=torch.float64)
    for rule in (lb.Linear(), lb.LocallyExact()):
        results = []
        for model in (placed, named):
            with lb.convert(model, rule):
                results.append(torch.autograd.grad(model(x).square().sum(), model.parameters()))
        torch.testing.assert_close(*results, rtol=0, atol=0)
        collapsed = torch.autograd.grad(
            lb.collapse(named, rule, always=True)(x).square().sum(), tuple(named.parameters())
        )
        torch.testing.assert_close(collapsed, results[0], rtol=1e-9, atol=1e-12)


def test_the_top_layer_is_backprop_s():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    x = torch.randn(N, 3, dtype=torch.float64)
    expected = torch.autograd.grad(model(x).square().sum(), model.parameters())
    got = torch.autograd.grad(lb.collapse(model, lb.LocallyExact())(x).square().sum(), model.parameters())
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_what_locally_exact_refuses():
    with pytest.raises(lb.LinearBackpropError, match=r"chain must be Linear\(\) or MeanLinear\(\), got Exact\(\)"):
        lb.LocallyExact(lb.Exact())
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    with pytest.raises(
        lb.LinearBackpropError, match=r"collapse takes Linear\(\), MeanLinear\(\) or LocallyExact\(...\), got Clipped"
    ):
        lb.collapse(model, lb.Clipped())
    with (
        pytest.raises(lb.LinearBackpropError, match=r"without accumulate\(\)"),
        lb.collapse(model, lb.LocallyExact()).accumulate(),
    ):
        pass
    with pytest.raises(lb.LinearBackpropError, match=r"with_rule cannot follow LocallyExact.*use lb\.convert or"):
        lb.with_rule(torch.tanh, lb.LocallyExact())
    with pytest.raises(lb.LinearBackpropError, match=r"backward_rule cannot follow LocallyExact"):
        lb.backward_rule(lb.LocallyExact())
    with pytest.raises(lb.LinearBackpropError, match=r"lb.collapse\(model, LocallyExact\(.*\), where=...\)"):
        lb.convert(model, lb.LocallyExact(), where="1")
    with pytest.raises(lb.LinearBackpropError, match=r"Blend cannot follow LocallyExact.*use lb\.convert or"):
        lb.Blend(lb.Linear(), lb.LocallyExact(), 0.5)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_convert_is_the_same_rule(chain, inplace: bool):
    """`convert` sends the batch itself down the chain, `collapse` the C unit vectors."""
    x = torch.randn(N, 3, 8, 8, dtype=torch.float64)
    model = residual(inplace)
    expected = wanted(model, lb.collapse(model, lb.LocallyExact(chain)), x)
    with lb.convert(model, lb.LocallyExact(chain)) as conversion:
        got = wanted(model, model, x)
    assert [site.path for site in conversion.changed] == ["acts.0", "acts.1", "acts.2"]
    # float64 sums in another order.
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)
    assert torch.equal(model(x), got[0])


def wanted(model: nn.Module, run, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    y = run(x)
    return [y.detach(), *torch.autograd.grad(y.square().mean(), [x, *model.parameters()])]


def test_convert_takes_any_structure_and_any_other_layer():
    """Layer norm, max pooling and softmax keep their true derivatives; inputs and outputs may be dictionaries."""

    class Structured(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.head = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(3, 2)

        def forward(self, batch: dict[str, Tensor], *, scale: float) -> dict[str, Tensor]:
            h = F.gelu(self.norm(self.first(batch["x"])))
            z = torch.tanh(self.head(F.max_pool1d(h[:, None], 2)[:, 0]) * scale)
            return {"z": z, "p": z.softmax(1)}

    torch.manual_seed(0)
    model = Structured().double()
    x = torch.randn(N, 4, dtype=torch.float64, requires_grad=True)
    with lb.convert(model, lb.LocallyExact()) as conversion:
        out = model({"x": x}, scale=0.5)
        (out["z"].square().sum() + out["p"][:, 0].sum()).backward()
        assert [site.what for site in conversion.changed] == ["gelu (called)", "tanh (called)"]
    # By hand, the chain in two pieces: tanh's derivative for the head, none of it further down.
    h = F.gelu(model.norm(model.first(x)))
    pooled = F.max_pool1d(h.detach()[:, None], 2)[:, 0].requires_grad_()
    a = model.head(pooled) * 0.5
    z = torch.tanh(a).detach().requires_grad_()
    (g,) = torch.autograd.grad(z.square().sum() + z.softmax(1)[:, 0].sum(), z)
    of_head = torch.autograd.grad(a, list(model.head.parameters()), g * (1 - z**2), retain_graph=True)
    (of_pooled,) = torch.autograd.grad(a, pooled, g)
    leaf = h.detach().requires_grad_()
    (of_h,) = torch.autograd.grad(F.max_pool1d(leaf[:, None], 2)[:, 0], leaf, of_pooled)
    a = model.norm(model.first(x))
    slope = torch.autograd.functional.jvp(F.gelu, a.detach(), torch.ones_like(a))[1]
    of_first = torch.autograd.grad(a, list(model.first.parameters()), of_h * slope, retain_graph=True)
    (of_x,) = torch.autograd.grad(a, x, of_h)
    torch.testing.assert_close([p.grad for p in model.head.parameters()], list(of_head), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close([p.grad for p in model.first.parameters()], list(of_first), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(x.grad, of_x, rtol=1e-10, atol=1e-14)


def test_the_gradient_may_be_taken_twice_and_without_grad_nothing_is_kept():
    model = residual()
    x = torch.randn(N, 3, 8, 8, dtype=torch.float64)
    for run in (lb.collapse(model, lb.LocallyExact(), always=True), lb.collapse(model, always=True)):
        loss = run(x).square().mean()
        first = torch.autograd.grad(loss, model.parameters(), retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(loss, model.parameters()), first, rtol=0, atol=0)
        with torch.no_grad():
            assert run(x).grad_fn is None


class Skips(nn.Module):
    """Pre-activations are added to one another."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))
        self.head = nn.Linear(5, C)

    def forward(self, x: Tensor) -> Tensor:
        a = self.layers[0](x)
        b = self.layers[1](torch.tanh(a)) + a
        h = F.silu(b) + 1
        return self.head(torch.sigmoid(self.layers[2](h) + b)) + 0.1 * F.linear(a, self.head.weight)


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_affine_parts_that_share_their_graph(chain: lb.BackwardRule):
    """Against the chain by `convert` and every pre-activation's gradient by Backprop, written out."""
    torch.manual_seed(0)
    model = Skips().double()
    x = torch.randn(N, 5, dtype=torch.float64)

    first, second, third = model.layers
    functions = [torch.tanh, F.silu, torch.sigmoid]
    with lb.backward_rule(chain):
        a = first(x)
        b = second(h1 := torch.tanh(a)) + a
        c = third(1 + (h2 := F.silu(b))) + b
        h3 = torch.sigmoid(c)
        y = model.head(h3) + 0.1 * F.linear(a, model.head.weight)
    deltas = torch.autograd.grad(y.square().sum(), [h1, h2, h3])
    cuts = [h.detach() for h in (h1, h2, h3)]
    a = first(x)
    b = second(cuts[0]) + a
    c = third(1 + cuts[1]) + b
    y = model.head(cuts[2]) + 0.1 * F.linear(a, model.head.weight)
    slopes = [
        torch.autograd.functional.jvp(f, z.detach(), torch.ones_like(z))[1]
        for f, z in zip(functions, (a, b, c), strict=True)
    ]
    cotangents = [delta * slope for delta, slope in zip(deltas, slopes, strict=True)]
    expected = torch.autograd.grad([a, b, c, y], list(model.parameters()), [*cotangents, 2 * y.detach()])

    with lb.convert(model, lb.LocallyExact(chain)):
        sent_down = torch.autograd.grad(model(x).square().sum(), model.parameters())
    collapsed = torch.autograd.grad(
        lb.collapse(model, lb.LocallyExact(chain), always=True)(x).square().sum(), model.parameters()
    )
    # float64 sums in another order.
    torch.testing.assert_close(sent_down, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(collapsed, expected, rtol=1e-10, atol=1e-12)


def test_what_was_freed_is_said():
    model = residual()
    x = torch.randn(N, 3, 8, 8, dtype=torch.float64)
    for rule in (lb.Linear(), lb.LocallyExact()):
        loss = lb.collapse(model, rule, always=True)(x).square().mean()
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()


class Overwrites(nn.Module):
    """Something is written into what an activation put out, which may lie in the memory of its pre-activation."""

    def __init__(self, activation: nn.Module, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, C)
        self.activation, self.write = activation, write

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.write(self.activation(self.second(torch.tanh(self.first(x))))))


WRITES: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
    (lambda h: h.add_(1), lambda h: h + 1),
    (lambda h: h.mul_(2), lambda h: h * 2),
    (lambda h: F.silu(h, inplace=True), F.silu),
    (lambda h: F.dropout(h, 0.5, True, inplace=True), lambda h: F.dropout(h, 0.5, True)),
]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("write", "apart"), WRITES, ids=["add", "mul", "silu", "dropout"])
@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_what_an_activation_put_out_may_be_overwritten(chain, write, apart, inplace: bool):
    torch.manual_seed(0)
    model, x = Overwrites(nn.SiLU(inplace), write).double(), torch.randn(N, 5, dtype=torch.float64)
    twin = copy.deepcopy(model)
    twin.activation, twin.write = nn.SiLU(), apart

    def found(model: nn.Module, run: nn.Module) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        return torch.autograd.grad(run(x).square().sum(), list(model.parameters()))

    lb.convert(twin, lb.LocallyExact(chain), layers=lb.LINEAR_LAYERS)
    expected = found(twin, twin)
    for always in (False, True):
        fast = lb.collapse(model, lb.LocallyExact(chain), layers=lb.LINEAR_LAYERS, always=always)
        torch.testing.assert_close(found(model, fast), expected, rtol=1e-10, atol=1e-13)
    lb.convert(model, lb.LocallyExact(chain), layers=lb.LINEAR_LAYERS)
    torch.testing.assert_close(found(model, model), expected, rtol=1e-12, atol=1e-15)


class BesideEachOther(nn.Module):
    """Networks of one input, two of which may have an output together."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(
            [nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs)) for outputs in (3, 2, 2)]
        )
        self.joined = joined

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        actor, critic, other = (network(x.flatten(1) * 2) for network in self.networks)
        return actor, critic, critic + other if self.joined else other


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("takes", [False, True])
@pytest.mark.parametrize("always", [None, False, True])
def test_networks_beside_each_other_have_a_backward_pass_each(chain, joined: bool, takes: bool, always: bool | None):
    """As in plain PyTorch, where one may be stepped between them."""
    torch.manual_seed(0)
    model, twin = BesideEachOther(joined).double(), BesideEachOther(joined).double()
    twin.load_state_dict(model.state_dict())
    x = torch.randn(N, 6, dtype=torch.float64, requires_grad=takes)
    other_x = x.detach().clone().requires_grad_(takes)
    lb.convert(twin, lb.LocallyExact(chain))
    sum(y.square().sum() for y in twin(other_x)).backward()
    if always is None:
        lb.convert(model, lb.LocallyExact(chain))
    run = model if always is None else lb.collapse(model, lb.LocallyExact(chain), always=always)
    first, *others = run(x)
    first.square().sum().backward()
    with torch.no_grad():
        for p in model.networks[0].parameters():
            p.mul_(2)
    if joined:
        sum(y.square().sum() for y in others).backward()
    else:
        for y in others:
            y.square().sum().backward()
    got = [p.grad for p in model.parameters()] + [x.grad]
    expected = [p.grad for p in twin.parameters()] + [other_x.grad]
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-13)


class OnFrozen(nn.Module):
    """Heads on one activation, of the input or of a frozen layer."""

    def __init__(self, below: nn.Module) -> None:
        super().__init__()
        self.below, self.act = below.requires_grad_(False), nn.Tanh()
        self.heads = nn.ModuleList(nn.Linear(6, outputs) for outputs in (3, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.act(self.below(x))
        return self.heads[0](h), self.heads[1](h * 2)


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
@pytest.mark.parametrize("below", [nn.Identity, lambda: nn.Linear(6, 6)], ids=["the input", "a frozen layer"])
@pytest.mark.parametrize("always", [None, False, True])
def test_outputs_may_share_an_activation_with_nothing_learned_below(chain, below, always: bool | None):
    torch.manual_seed(0)
    model, rule = OnFrozen(below()).double(), lb.LocallyExact(chain)
    if always is None:
        lb.convert(model, rule)
    run = model if always is None else lb.collapse(model, rule, always=always)
    x = torch.randn(N, 6, dtype=torch.float64, requires_grad=True)
    wanted = [x, *model.heads.parameters()]
    apart = [torch.autograd.grad(run(x)[i].square().sum(), wanted, allow_unused=True) for i in range(2)]
    first, second = run(x)
    got = torch.autograd.grad(first.square().sum() + second.square().sum(), wanted)
    expected = [sum(g for g in each if g is not None) for each in zip(*apart, strict=True)]
    torch.testing.assert_close(got, tuple(expected), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("always", [None, False, True])
def test_outputs_on_an_activation_that_takes_no_gradient_have_a_backward_pass_each(always: bool | None):
    """As in plain PyTorch."""
    model, rule = OnFrozen(nn.Linear(6, 6)), lb.LocallyExact()
    if always is None:
        lb.convert(model, rule)
    run = model if always is None else lb.collapse(model, rule, always=always)
    for y in run(torch.randn(N, 6)):
        y.sum().backward()
    assert all(p.grad is not None for p in model.heads.parameters())


def test_a_compiled_model():
    torch.compiler.reset()
    model = residual()
    x = torch.randn(N, 3, 8, 8, dtype=torch.float64)
    expected = torch.autograd.grad(lb.collapse(model, lb.LocallyExact())(x).square().sum(), model.parameters())
    compiled = torch.compile(model, backend="aot_eager")
    got = torch.autograd.grad(lb.collapse(compiled, lb.LocallyExact())(x).square().sum(), model.parameters())
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)


# What runs under no_grad, and what mixes samples below


class UnderNoGrad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        with torch.no_grad():
            t = torch.relu(self.b(h))
        return self.o(torch.sigmoid(h + t))


class OfTheInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.tanh(self.a(torch.relu(x - 0.1).div_(3))))


@pytest.mark.parametrize("chain", [lb.Linear(), lb.MeanLinear()])
@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("kind", [UnderNoGrad, OfTheInput])
def test_activations_without_a_gradient_have_no_place_in_the_chain(
    kind: type[nn.Module], chain: lb.Linear | lb.MeanLinear, always: bool
):
    torch.manual_seed(0)
    model = kind().double()
    twin = copy.deepcopy(model)
    x = torch.randn(20, 6, dtype=torch.float64)
    lb.convert(twin, lb.LocallyExact(chain))
    twin(x).square().mean().backward()
    lb.collapse(model, lb.LocallyExact(chain), always=always)(x).square().mean().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chain", [lb.Linear(), lb.MeanLinear()])
def test_the_chain_reaches_what_mixes_samples_below(chain: lb.Linear | lb.MeanLinear):
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.below, self.act = nn.Linear(6, 8), nn.Tanh()
            self.o = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.below(x)
            return self.o(self.act(h - h.mean(0)))

    torch.manual_seed(0)
    model = Centred().double()
    fast = lb.collapse(model, lb.LocallyExact(chain), where="act", always=True)
    x = torch.randn(20, 6, dtype=torch.float64)
    fast(x).square().mean().backward()
    assert "made of all samples, below the collapsed part" in str(fast)
    # Linear's chain passes the cotangent of h on as it is; centring takes its mean away.
    g = 2 * model(x).detach() / (20 * 3) @ model.o.weight.detach()
    a = model.below(x).detach()
    derivative = 1 - torch.tanh(a - a.mean(0)).square()
    slope = derivative.mean(0) if isinstance(chain, lb.MeanLinear) else 1.0
    chained = g * slope
    torch.testing.assert_close(model.below.weight.grad, (chained - chained.mean(0)).T @ x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("compiled_first", [False, True])
def test_convert_takes_a_model_that_is_compiled_before_or_after(compiled_first: bool):
    torch.compiler.reset()
    model = residual()
    twin = copy.deepcopy(model)
    x = torch.randn(N, 3, 8, 8, dtype=torch.float64)
    lb.convert(twin, lb.LocallyExact())
    expected = torch.autograd.grad(twin(x).square().sum(), twin.parameters())
    if not compiled_first:
        lb.convert(model, lb.LocallyExact())
    compiled = torch.compile(model, backend="eager")
    if compiled_first:
        lb.convert(compiled, lb.LocallyExact())
    for _ in range(2):
        got = torch.autograd.grad(compiled(x).square().sum(), model.parameters())
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)


class Told(nn.Module):
    """Takes something that is not of the samples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.o = (nn.Linear(*size).double() for size in ((6, 8), (8, 8), (8, 3)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.o(torch.tanh(self.b(torch.relu(self.a(x) + self.b(t)) + t)))


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("takes", [True, False])
def test_whatever_the_model_is_called_with_receives_the_chain_s_cotangent(always: bool, takes: bool):
    model, x = Told(), torch.randn(N, 6, dtype=torch.float64)
    t = torch.full((1, 8), 0.3, dtype=torch.float64, requires_grad=takes)
    wanted = [*model.parameters(), *([t] if takes else [])]
    with lb.convert(model, lb.LocallyExact()):
        expected = torch.autograd.grad(model(x, t).square().sum(), wanted)
    found = torch.autograd.grad(lb.collapse(model, lb.LocallyExact(), always=always)(x, t).square().sum(), wanted)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
