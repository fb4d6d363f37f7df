"""In-place activations: nothing that autograd saved is corrupted, and PyTorch's own refusals stand."""

from functools import partial

import pytest
import torch
from forms import CASES, RULES, Case
from torch import nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop._catalogue.activations import FORMS

IN_PLACE = [case for case in CASES if case.in_place and "prelu" not in case.label]
by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


@by_rule
def test_a_leaf_that_requires_grad_is_refused_and_untouched(rule: lb.BackwardRule):
    x = torch.randn(4, requires_grad=True)
    before = x.detach().clone()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        lb.with_rule(torch.relu_, rule)(x)
    assert torch.equal(x, before)


@by_rule
def test_a_view_of_a_leaf_that_requires_grad_is_refused(rule: lb.BackwardRule):
    x = torch.randn(4, requires_grad=True)
    with pytest.raises(RuntimeError, match="view of a leaf Variable that requires grad"):
        lb.with_rule(F.relu, rule)(x[:2], inplace=True)


@by_rule
def test_one_of_several_views_is_refused(rule: lb.BackwardRule):
    first, _ = torch.randn(4, requires_grad=True).clone().split(2)
    with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
        lb.with_rule(torch.relu_, rule)(first)


@by_rule
def test_overwriting_what_was_saved_raises_at_the_backward_pass(rule: lb.BackwardRule):
    x = torch.randn(4, requires_grad=True)
    z = x.exp()  # autograd keeps exp's output
    lb.with_rule(torch.relu_, rule)(z)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_overwriting_what_a_rule_saved_raises_at_the_backward_pass():
    x = torch.randn(4, requires_grad=True).clone()
    h = lb.with_rule(torch.tanh, lb.Clipped())(x)
    lb.with_rule(torch.relu_)(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


@by_rule
def test_a_view_changes_its_base_and_its_gradient(rule: lb.BackwardRule):
    x = torch.tensor([-1.5, 0.5, -0.25, 2.0], requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])

    base = x * 1
    lb.with_rule(torch.relu_, rule)(base[:2])
    (got,) = torch.autograd.grad(base @ weights, x)
    head = lb.with_rule(torch.relu, rule)(x[:2])
    (expected,) = torch.autograd.grad(torch.cat([head, x[2:]]) @ weights, x)
    assert torch.equal(got, expected)


@by_rule
def test_earlier_readers_of_the_pre_activation_keep_their_gradient(rule: lb.BackwardRule):
    x = torch.tensor([-1.5, 0.5, 2.0, 0.25], requires_grad=True)

    z = x * 1
    read = z * 3
    h = lb.with_rule(torch.relu_, rule)(z)
    (got,) = torch.autograd.grad((read + 2 * h).sum(), x)
    z = x * 1
    (expected,) = torch.autograd.grad((z * 3 + 2 * lb.with_rule(torch.relu, rule)(z)).sum(), x)
    assert torch.equal(got, expected)


@by_rule
def test_the_same_tensor_comes_back(rule: lb.BackwardRule):
    z = torch.randn(4, requires_grad=True) * 1
    assert lb.with_rule(torch.relu_, rule)(z) is z
    assert lb.with_rule(F.silu, rule)(z, inplace=True) is z


@pytest.mark.parametrize("rule", [r for r in RULES if not isinstance(r, lb.Rescale)], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("form", IN_PLACE, ids=lambda case: case.label)
def test_in_place_is_what_it_is_out_of_place_for_readers_before_and_after(rule: lb.BackwardRule, form: Case):
    """Against the same graph with the activation out of place, in which nothing is overwritten."""
    out_of_place = partial(FORMS[form.function].out_of_place)

    def run(in_place: bool) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)
        w = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
        hooked: list[torch.Tensor] = []
        z = w * torch.tensor([-2.0, 0.3, 1.0], dtype=torch.float64)
        before = 3 * z
        if in_place:
            h = form.run(lb.with_rule(form.function, rule), z)
        else:
            keywords = {k: v for k, v in form.keywords if k != "inplace"}
            h = lb.with_rule(out_of_place, rule)(z, *form.arguments, **keywords)
        h.register_hook(lambda g: hooked.append(g.clone()))
        h.retain_grad()
        ((before + 2 * h) * torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)).sum().backward()
        assert w.grad is not None and h.grad is not None
        return h.detach().clone(), h.grad, hooked[0], w.grad

    if "training" in form.label:
        pytest.skip("in place, RReLU draws other numbers")
    # To a few roundings: in place, PyTorch takes the derivative of ELU from its result.
    torch.testing.assert_close(run(True), run(False), rtol=1e-14, atol=1e-14)


@by_rule
def test_in_place_without_grad(rule: lb.BackwardRule):
    x = torch.randn(4, requires_grad=True)
    with torch.no_grad():
        assert (lb.with_rule(torch.relu_, rule)(x) >= 0).all()


@by_rule
def test_a_partial_does_not_hide_that_it_works_in_place(rule: lb.BackwardRule):
    in_place = lb.with_rule(partial(F.leaky_relu, negative_slope=0.5, inplace=True), rule)
    x = torch.tensor([-2.0, 3.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        in_place(x)
    z = x * 1
    assert in_place(z) is z
    assert z.tolist() == [-1.0, 3.0]


def test_a_partial_passes_gradients_to_what_it_holds():
    slope = torch.tensor([0.5], requires_grad=True)
    lb.with_rule(partial(F.prelu, weight=slope))(torch.tensor([-2.0, 3.0])).sum().backward()
    assert slope.grad is not None and slope.grad.tolist() == [-2.0]


@pytest.mark.parametrize("rest", [(), (torch.tensor([2.0, 4.0]),)], ids=["alone", "with further arguments"])
def test_it_does_so_to_what_it_holds_in_front_of_the_pre_activation(rest: tuple[torch.Tensor, ...]):
    def scaled(p: torch.Tensor, z: torch.Tensor, q: torch.Tensor | float = 1.0) -> torch.Tensor:
        return q * p * z.tanh()

    p, z = torch.tensor([0.5], requires_grad=True), torch.tensor([-2.0, 3.0], requires_grad=True)
    h = lb.with_rule(partial(scaled, p))(z, *rest)
    assert torch.equal(h, scaled(p, z, *rest))
    h.sum().backward()
    factor = rest[0] if rest else 1.0
    assert torch.equal(p.grad, (factor * z.tanh()).sum()[None]) and torch.equal(z.grad, torch.ones(2))
    with pytest.raises(lb.LinearBackpropError, match="its first positional argument"):
        lb.with_rule(partial(scaled, p))(input=z)


@by_rule
def test_a_user_s_function_that_overwrites_its_input_is_refused(rule: lb.BackwardRule):
    def halve(z: torch.Tensor) -> torch.Tensor:
        return z.mul_(0.5)

    z = torch.ones(3, requires_grad=True) * 1
    if not isinstance(rule, lb.Exact):  # under which PyTorch runs the function and sees the write
        with pytest.raises(lb.LinearBackpropError, match="halve overwrites its input"):
            lb.with_rule(halve, rule)(z)


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.Softplus()
    ).double()


def nodes(h: torch.Tensor) -> set[str]:
    """The kinds of node in the graph below a tensor."""
    found, queue = set(), [h.grad_fn]
    while queue:
        node = queue.pop()
        found.add(node.name())
        queue += [below for below, _ in node.next_functions if below is not None]
    return found


def one_by_one(model: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    for module in model:
        x = module(x)
    return x


def test_in_a_sequential_linear_leaves_no_node_after_a_layer():
    model = nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 3), nn.SiLU())
    lb.convert(model)
    assert nodes(model(torch.ones(2, 3))) == {"AddmmBackward0", "TBackward0", "torch::autograd::AccumulateGrad"}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_in_a_sequential_all_is_as_module_by_module(dtype: torch.dtype | None):
    model, x = layers(), torch.randn(4, 2, 6, 6, dtype=torch.float64)
    if dtype is not None:
        model, x = model.float(), x.float()
    lb.convert(model)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        got, expected = model(x), one_by_one(model, x)
    assert got.dtype == expected.dtype and torch.equal(got, expected)
    ours, theirs = (torch.autograd.grad(h.square().sum(), model.parameters()) for h in (got, expected))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("where", ["layer", "activation", "activation's pre-hook", "everywhere", "mode"])
def test_whoever_is_told_of_a_pre_activation_keeps_it(where: str):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    lb.convert(model)
    x = -torch.ones(2, 3)
    kept: list[torch.Tensor] = []

    class Keeps(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func is F.linear:
                kept.append(result)
            return result

    register = {
        "layer": lambda: model[0].register_forward_hook(lambda m, args, h: kept.append(h)),
        "activation": lambda: model[1].register_forward_hook(lambda m, args, h: kept.append(args[0])),
        "activation's pre-hook": lambda: model[1].register_forward_pre_hook(lambda m, args: kept.append(args[0])),
        "everywhere": lambda: nn.modules.module.register_module_forward_hook(
            lambda m, args, h: kept.append(h) if isinstance(m, nn.Linear) else None
        ),
    }
    if where == "mode":
        with Keeps():
            model(x)
    else:
        handle = register[where]()
        model(x)
        handle.remove()
    assert torch.equal(kept[0], F.linear(x, model[0].weight, model[0].bias))
    assert (kept[0] < 0).any()


@pytest.mark.parametrize(("owner", "name"), [(F, "linear"), (nn.Linear, "forward"), (nn.Linear, "__call__")])
def test_whoever_puts_a_function_in_the_place_of_pytorch_s_keeps_what_it_made(owner, name: str, monkeypatch):
    model, kept, original = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), [], getattr(owner, name)
    lb.convert(model)

    def keeping(*args):
        kept.append(original(*args))
        return kept[-1]

    monkeypatch.setattr(owner, name, keeping)
    model(-torch.ones(2, 3))
    assert (kept[0] < 0).any()


def test_a_pre_activation_made_by_hand_is_kept():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    lb.convert(model)
    z = model[0](-torch.ones(2, 3))
    before = z.detach().clone()
    model[1](z)
    assert torch.equal(z, before)


def test_other_rules_in_a_sequential_are_not_taken_over():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh())
    x = torch.ones(2, 3)
    with lb.convert(model):
        second = lb.convert(model, lb.PreActivation(), where="1")
        got, expected = model(x), one_by_one(model, x)
        ours, theirs = (torch.autograd.grad(h.sum(), model.parameters()) for h in (got, expected))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert "_RuleBackward" in nodes(got)
        second.remove()


def test_a_prelu_s_weight_is_not_taken_over():
    model = nn.Sequential(nn.Linear(3, 3), nn.PReLU())
    lb.convert(model)
    model(-torch.ones(2, 3)).sum().backward()
    assert model[1].weight.grad is not None
