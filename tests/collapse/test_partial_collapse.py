"""Collapsing the upper part of a model: what lies below may be anything, and keeps its true derivatives."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb

N, C = 48, 3
# float64 sums in another order.
RTOL, ATOL = 1e-10, 1e-13


class Mixed(nn.Module):
    """Below: max pooling, layer norm, batch normalization in training mode; above: affine parts, a skip from below."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.low = nn.Tanh()
        self.second = nn.Linear(4 * 9, 8)
        self.middle = nn.ReLU(inplace)
        self.third = nn.Linear(8, 8)
        self.high = nn.SiLU(inplace)
        self.head = nn.Linear(8, C)

    def forward(self, x: Tensor) -> Tensor:
        z = F.layer_norm(F.max_pool2d(self.low(self.norm(self.first(x))), 2).flatten(1), (36,))
        skip = self.second(z)
        h = self.middle(skip * 1)
        return self.head(self.high(self.third(h) + skip) + 0.5 * skip + x.mean((1, 2, 3))[:, None])


def mixed(inplace: bool = False) -> Mixed:
    torch.manual_seed(0)
    return Mixed(inplace).double()


def gradients(model: nn.Module, run, x: Tensor, loss_fn) -> list[Tensor]:
    x = x.clone().requires_grad_()
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    return list(torch.autograd.grad(loss_fn(run(x)), wanted))


@pytest.mark.parametrize("rule", [lb.Linear(), lb.MeanLinear()], ids=repr)
@pytest.mark.parametrize("path", ["low", "middle"])
@pytest.mark.parametrize("inplace", [False, True])
def test_the_upper_part_collapses(rule: lb.BackwardRule, path: str, inplace: bool):
    x, target = torch.randn(N, 2, 6, 6, dtype=torch.float64), torch.randint(C, (N,))
    loss_fn = lambda y: F.cross_entropy(y, target)  # noqa: E731
    model = mixed(inplace)
    twin = copy.deepcopy(model)
    lb.convert(twin, rule, where=lb.after(path))
    fast = lb.collapse(model, rule, where=lb.after(path), always=True)
    expected = gradients(twin, twin, x, loss_fn)
    got = gradients(model, fast, x, loss_fn)
    torch.testing.assert_close(got, expected, rtol=RTOL, atol=ATOL)
    torch.testing.assert_close(dict(model.named_buffers()), dict(twin.named_buffers()), rtol=0, atol=0)


def test_outputs_and_random_numbers_are_the_model_s():
    """Dropout below draws for the batch once, and for the combined samples never."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(N, 3)
    torch.manual_seed(1)
    expected = model(x)
    after = torch.rand(3)
    fast = lb.collapse(model, where=lb.after("2"), always=True)
    torch.manual_seed(1)
    y = fast(x)
    y.square().mean().backward()
    assert torch.equal(y, expected)
    assert torch.equal(torch.rand(3), after)


def test_a_frozen_lower_part():
    model = mixed()
    model.first.requires_grad_(False)
    model.norm.requires_grad_(False)
    model.second.requires_grad_(False)
    x = torch.randn(N, 2, 6, 6, dtype=torch.float64)
    twin = copy.deepcopy(model)
    lb.convert(twin, where=lb.after("middle"))
    loss = lambda y: y.square().mean()  # noqa: E731
    expected = torch.autograd.grad(loss(twin(x)), [*twin.third.parameters(), *twin.head.parameters()])
    fast = lb.collapse(model, where=lb.after("middle"), always=True)
    got = torch.autograd.grad(loss(fast(x)), [*model.third.parameters(), *model.head.parameters()])
    torch.testing.assert_close(got, expected, rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("chain", [lb.Linear(), lb.MeanLinear()], ids=repr)
def test_locally_exact_above_a_layer(chain: lb.BackwardRule, monkeypatch: pytest.MonkeyPatch):
    """The collapsed chain and the batch itself sent down agree; below, derivatives are true."""
    x, target = torch.randn(N, 2, 6, 6, dtype=torch.float64), torch.randint(C, (N,))
    loss_fn = lambda y: F.cross_entropy(y, target)  # noqa: E731
    found = []
    for collapses in (False, True):
        monkeypatch.setattr(lb.Collapsed, "collapses", lambda self, samples, answer=collapses: answer)
        model = mixed()
        found.append(gradients(model, lb.collapse(model, lb.LocallyExact(chain), where=lb.after("low")), x, loss_fn))
    torch.testing.assert_close(*found, rtol=RTOL, atol=ATOL)
    model = mixed()
    true = gradients(model, model, x, loss_fn)
    # The head sees no activation above it, so its gradient is Backprop's.
    torch.testing.assert_close(found[0][-2:], true[-2:], rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "low",
            r"max_pool2d at 'the model' cannot be collapsed, and runs after Tanh at 'low', which is selected",
        ),
        (
            lambda path, module: False,
            r"selects none of the activations: Tanh at 'low', ReLU at 'middle', SiLU at 'high'",
        ),
    ],
)
def test_what_does_not_lie_above_is_refused(where, message: str):
    with pytest.raises(lb.CollapseError, match=message):
        lb.collapse(mixed(), where=where)(torch.randn(N, 2, 6, 6, dtype=torch.float64))


def test_what_is_not_affine_above_is_refused_by_name():
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    with pytest.raises(lb.CollapseError, match="LayerNorm at '2' cannot be collapsed"):
        lb.collapse(model, where=lb.after("0"), always=True)(torch.randn(N, 3))
    lb.collapse(model, where=lb.after("2"), always=True)(torch.randn(N, 3))


def test_accumulate_is_refused():
    with (
        pytest.raises(lb.LinearBackpropError, match="call backward\\(\\) for each"),
        lb.collapse(mixed(), where=lb.after("low")).accumulate(),
    ):
        pass


class InPlace(nn.Module):
    """An activation that overwrites what a batch normalization in training mode put out, as in most ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.act = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True)
        self.head = nn.Linear(6, C)

    def low(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x))


class Added(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        h = self.low(x)
        h += x
        return self.head(self.act(h))


class View(InPlace):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.low(x)
        view = h[:, :2]
        return self.head(self.act(h).mul_(2)), view


class Unread(InPlace):
    """The view that a true derivative reads below, and another above, after the memory is overwritten."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        view = h.view(-1, 6)
        below = self.norm(view)
        self.act(h)
        return self.head(view + below)


class Returned(InPlace):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.low(x)
        return self.head(self.act(h).mul_(2)), h


def summed(y: Tensor | tuple[Tensor, ...]) -> Tensor:
    return sum((each.square().sum() for each in (y if isinstance(y, tuple) else (y,))), torch.zeros(()))


@pytest.mark.parametrize("kind", [Added, View])
def test_what_comes_from_below_may_be_overwritten(kind: type[InPlace]):
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(N, 6, dtype=torch.float64)
    twin = copy.deepcopy(model)
    lb.convert(twin, where="act")
    got = gradients(model, lb.collapse(model, where="act", always=True), x, summed)
    torch.testing.assert_close(got, gradients(twin, twin, x, summed), rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unread, r"ReLU at 'act' overwrites Linear at 'first' and view at 'the model', .* read under two names"),
        (Returned, r"ReLU at 'act' overwrites BatchNorm1d at 'norm', .* is returned"),
    ],
)
def test_what_comes_from_below_twice_may_not_be_overwritten(kind: type[InPlace], message: str):
    model = kind().double()
    with pytest.raises(lb.CollapseError, match=message):
        lb.collapse(model, where="act", always=True)(torch.randn(N, 6, dtype=torch.float64))


def named_remedy(model: nn.Module, x: Tensor, where=None) -> str:
    """What a refusal says to do in place of selecting what it was given."""
    with pytest.raises(lb.CollapseError) as refusal:
        lb.collapse(model, where=where)(x)
    return str(refusal.value)


def norms() -> nn.Sequential:
    torch.manual_seed(0)
    wide = [each for _ in range(2) for each in (nn.Linear(6, 6), nn.ReLU(), nn.LayerNorm(6))]
    above = [each for _ in range(4) for each in (nn.Linear(6, 6), nn.Tanh())]
    return nn.Sequential(*wide, *above, nn.Linear(6, C)).double()


@pytest.mark.parametrize("where", [None, "1", ["4", "7"]])
@pytest.mark.parametrize("many", [False, True])
def test_a_refusal_names_what_can_be_selected(where, many: bool):
    """And that works: what it names is above all that cannot be collapsed, not above the first such alone."""
    model = norms() if many else norms()[:10]
    x = torch.randn(N, 6, dtype=torch.float64)
    said = named_remedy(model, x, where)
    assert ("`where=lb.after('6')`" if many else "`where=['7', '9']`") in said
    named = lb.after("6") if many else ["7", "9"]
    twin = copy.deepcopy(model)
    lb.convert(twin, where=named)
    got = gradients(model, lb.collapse(model, where=named, always=True), x, summed)
    torch.testing.assert_close(got, gradients(twin, twin, x, summed), rtol=RTOL, atol=ATOL)


def test_a_refusal_says_so_where_nothing_can_be_selected():
    x = torch.randn(N, 6, dtype=torch.float64)
    for where in (None, "1"):
        said = named_remedy(norms()[:6], x, where)
        assert "use lb.convert: no activation that `where=` could select lies above it" in said
        assert "and above LayerNorm at '5'" in said or where is not None


def test_what_is_not_selected_is_to_be_selected_if_that_helps():
    x = torch.randn(N, 6, dtype=torch.float64)
    said = named_remedy(norms()[6:10], x, "7")
    assert "Tanh at '9' is not selected" in said
    assert "so select it, too (`where=['7', '9']`)" in said
    below_a_norm = nn.Sequential(nn.Tanh(), nn.ReLU(), nn.LayerNorm(6))
    assert "so use lb.convert" in named_remedy(below_a_norm.double(), x, "0")


class OfItsOwn(nn.Module):
    """Activations of modules, and then one that the model's own code calls."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.head = nn.Linear(8, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.below(x)))


@pytest.mark.parametrize("where", ["below.3", "below.1", ["below.1", "below.3"], lb.after("below.0")], ids=str)
def test_what_the_model_s_own_code_calls_is_to_be_selected_too(where):
    torch.manual_seed(0)
    model, x = OfItsOwn().double(), torch.randn(N, 6, dtype=torch.float64)
    assert "so select it, too (`where=['below.1', 'below.3', '']`)" in named_remedy(model, x, where)
    twin = copy.deepcopy(model)
    lb.convert(twin)
    fast = lb.collapse(model, where=["below.1", "below.3", ""], always=True)
    torch.testing.assert_close(
        gradients(model, fast, x, summed), gradients(twin, twin, x, summed), rtol=RTOL, atol=ATOL
    )


class SharedActivation(nn.Module):
    """One module runs above and below a normalization: it cannot be selected."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.norm, self.out = nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.norm(self.act(x))))


def test_a_module_that_runs_below_too_is_not_named():
    assert "use lb.convert" in named_remedy(SharedActivation().double(), torch.randn(N, 6, dtype=torch.float64))


def test_a_refusal_names_the_rules_for_layers_without_which_nothing_can_be_selected():
    model = nn.Sequential(
        nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, C)
    )
    x = torch.randn(N, 6)
    assert "(`where=['3', '4'], layers=lb.LINEAR_LAYERS`)" in named_remedy(model, x)
    lb.collapse(model, where=["3", "4"], layers=lb.LINEAR_LAYERS, always=True)(x)


@pytest.mark.parametrize("rule", [lb.Linear(), lb.MeanLinear()])
@pytest.mark.parametrize("selected", [nn.ReLU(inplace=True), nn.SELU(inplace=True), nn.Hardtanh(inplace=True)])
@pytest.mark.parametrize("below", [nn.BatchNorm1d(8), nn.Identity(), nn.GLU(), nn.Softplus()])
def test_the_first_activation_above_may_overwrite_what_comes_from_below(
    below: nn.Module, selected: nn.Module, rule: lb.Linear | lb.MeanLinear
):
    width = 16 if isinstance(below, nn.GLU) else 8
    model = nn.Sequential(nn.Linear(6, 6), nn.Softmax(1), nn.Linear(6, width), below, selected, nn.Linear(8, 3))
    model, x = copy.deepcopy(model).double(), torch.randn(20, 6, dtype=torch.float64)
    twin = copy.deepcopy(model)
    lb.collapse(model, rule, where="4", always=True)(x).square().sum().backward()
    with lb.convert(twin, rule, where="4"):
        twin(x).square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
