"""Conversion of models: what is found, changed, left alone and restored."""

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import linear_backprop as lb


class Functional(nn.Module):
    """Calls its activations itself."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.above = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.above(F.relu(self.below(x)).tanh()).softmax(-1)


class Nothing(nn.Module):
    """Has an activation only in arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.below(x)
        return z * (z > 0)


def mixed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), Functional(), nn.Sequential(nn.Linear(2, 2), nn.Tanh()))


def slopes(model: nn.Module) -> Tensor:
    """The gradient of the input: differs as soon as one activation follows another rule."""
    x = torch.tensor([[0.3, -1.2, 2.0]], requires_grad=True)
    (g,) = torch.autograd.grad(model(x)[0, 0], x)
    return g


def with_functional_rules(relu: lb.BackwardRule, inner: lb.BackwardRule, tanh: lb.BackwardRule) -> Tensor:
    """`slopes(mixed())`, written out with `with_rule` alone."""
    model = mixed()
    x = torch.tensor([[0.3, -1.2, 2.0]], requires_grad=True)
    h = lb.with_rule(F.relu, relu)(model[0](x))
    h = lb.with_rule(torch.tanh, inner)(lb.with_rule(F.relu, inner)(model[2].below(h)))
    h = lb.with_rule(torch.tanh, tanh)(model[3][0](model[2].above(h).softmax(-1)))
    (g,) = torch.autograd.grad(h[0, 0], x)
    return g


EXACT, LINEAR = lb.Exact(), lb.Linear()


@pytest.mark.parametrize(
    ("where", "rules"),
    [
        (None, (LINEAR, LINEAR, LINEAR)),
        ("1", (LINEAR, EXACT, EXACT)),
        ("3.*", (EXACT, EXACT, LINEAR)),
        (["1", "2"], (LINEAR, LINEAR, EXACT)),
        (lambda path, module: isinstance(module, nn.Tanh), (EXACT, EXACT, LINEAR)),
        (lb.after("0"), (LINEAR, LINEAR, LINEAR)),
        (lb.after("1"), (EXACT, LINEAR, LINEAR)),
        (lb.after("2"), (EXACT, EXACT, LINEAR)),
    ],
)
def test_where_selects(where, rules):
    model = mixed()
    lb.convert(model, where=where)
    assert torch.equal(slopes(model), with_functional_rules(*rules))


def test_inside_a_selected_module_the_others_stay_exact():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mixed()

        def forward(self, x):
            return torch.sigmoid(self.inner(x))

    torch.manual_seed(0)
    model = Outer()
    conversion = lb.convert(model, where=lambda path, module: path == "")
    got = slopes(model)
    model.inner = copy.deepcopy(model.inner)
    conversion.remove()
    x = torch.tensor([[0.3, -1.2, 2.0]], requires_grad=True)
    (expected,) = torch.autograd.grad(lb.with_rule(torch.sigmoid)(mixed()(x))[0, 0], x)
    assert torch.equal(got, expected)
    assert [site.what for site in conversion.changed] == ["sigmoid (called)"]
    assert {site.what for site in conversion.unchanged} >= {"ReLU", "Tanh", "relu (called)"}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("feature.*", "where='feature.*' matches no module of the model; its modules' paths are like"),
        (lb.after("4"), r"after\('4'\): the model has no such module"),
        (3, "where must be a glob"),
    ],
)
def test_a_selection_of_nothing_is_refused(where, message):
    with pytest.raises(lb.LinearBackpropError, match=message):
        lb.convert(mixed(), where=where)


def test_the_report_lists_modules_at_once_and_calls_once_they_ran():
    model = nn.Sequential(mixed(), nn.Softmax(-1), nn.GLU())
    conversion = lb.convert(model)
    assert [site.path for site in conversion.changed] == ["0.1", "0.3.1"]
    assert {site.path: site.reason.split(":")[0] for site in conversion.unchanged} == {
        "1": "normalizes over a dimension",
        "2": "multiplies one half of its input by the other",
    }
    model(torch.ones(2, 3))
    assert {(site.path, site.what) for site in conversion.changed} == {
        ("0.1", "ReLU"),
        ("0.3.1", "Tanh"),
        ("0.2", "relu (called)"),
        ("0.2", "tanh (called)"),
    }
    text = str(conversion)
    assert "0.2    relu (called)     Linear()" in text
    assert "left: normalizes over a dimension" in text
    assert text.endswith("4 changed, 3 left alone")
    assert repr(conversion) == "<Conversion to Linear(): 4 changed, 3 left alone>"


def test_what_cannot_follow_is_left_alone_and_still_works():
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0), nn.ReLU())
    x = torch.randn(1, 3, 4)
    expected = model(x)
    conversion = lb.convert(model)
    assert torch.equal(model(x), expected)
    assert {site.what for site in conversion.changed} == {"relu (called)", "ReLU"}
    assert [site.what for site in conversion.unchanged] == ["MultiheadAttention"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 3), "the model has no elementwise activation.*seen: none; modules: Linear"),
        (nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1)), "Softmax at 1 .normalizes over a dimension"),
    ],
)
def test_a_conversion_that_changes_nothing_is_refused(model, message):
    with pytest.raises(lb.ConversionError, match=message):
        lb.convert(model)
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_conversion_that_turns_out_to_change_nothing_is_refused_at_the_first_forward():
    model = nn.Sequential(Nothing())
    lb.convert(model)
    with pytest.raises(lb.ConversionError, match="the model ran once and called no elementwise activation"):
        model(torch.ones(1, 3))


def test_remove_restores_exactly():
    model = mixed()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = [(type(module), dict(vars(module))) for module in model.modules()]
    expected = slopes(model)
    conversion = lb.convert(model)
    assert not torch.equal(slopes(model), expected)
    conversion.remove()
    assert [(type(module), dict(vars(module))) for module in model.modules()] == before
    assert torch.equal(slopes(model), expected)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    conversion.remove()


def test_a_context_restores_after_an_exception():
    model = mixed()
    expected = slopes(model)
    with pytest.raises(ZeroDivisionError), lb.convert(model):
        raise ZeroDivisionError
    assert torch.equal(slopes(model), expected)


def test_a_forward_set_on_the_instance_comes_back():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    own = lambda x: F.softplus(x)  # noqa: E731
    model[1].forward = own
    with lb.convert(model) as conversion:
        assert torch.equal(slopes(model)[0], model[0].weight[0])
        assert [site.what for site in conversion.changed] == ["softplus (called)"]
    assert model[1].forward is own


def test_conversions_nest_and_the_latest_decides():
    model = mixed()
    first = lb.convert(model)
    linear = slopes(model)
    second = lb.convert(model, lb.PreActivation(), where="1")
    assert torch.equal(slopes(model), with_functional_rules(lb.PreActivation(), LINEAR, LINEAR))
    with pytest.raises(lb.ConversionError, match="module '1' was converted again"):
        first.remove()
    second.remove()
    assert torch.equal(slopes(model), linear)
    first.remove()
    assert torch.equal(slopes(model), with_functional_rules(EXACT, EXACT, EXACT))


@pytest.mark.parametrize("travel", ["deepcopy", "pickle", "save"])
def test_a_converted_model_travels(travel: str):
    model = mixed()
    conversion = lb.convert(model)
    expected = slopes(model)
    if travel == "deepcopy":
        twin = copy.deepcopy(model)
    elif travel == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        torch.save(model, buffer := io.BytesIO())
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    conversion.remove()
    assert torch.equal(slopes(twin), expected)
    with torch.no_grad():
        twin[0].weight.zero_()
    assert torch.equal(slopes(twin), torch.zeros(1, 3))


def test_one_module_used_many_times():
    class Reuses(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.act = nn.Linear(3, 3), nn.GELU()

        def forward(self, x):
            return self.act(self.layer(self.act(self.layer(x))))

    model = Reuses()
    lb.convert(model)
    assert torch.allclose(slopes(model)[0], (model.layer.weight @ model.layer.weight)[0])


def test_hooks_see_what_they_saw():
    model = mixed()
    seen: list[Tensor] = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
        module.register_forward_hook(lambda module, args, out: seen.append(out.detach().clone()))
    slopes(model)
    expected, seen[:] = list(seen), []
    lb.convert(model)
    slopes(model)
    assert len(seen) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_parametrized_layers_convert():
    torch.manual_seed(0)
    model = nn.Sequential(weight_norm(nn.Linear(3, 3)), nn.ReLU())
    lb.convert(model)
    assert torch.allclose(slopes(model)[0], model[0].weight[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_listed_as_out_of_reach():
    model = nn.Sequential(torch.jit.script(nn.ReLU()), nn.Tanh())
    conversion = lb.convert(model)
    assert [site.reason.split(":")[0] for site in conversion.unchanged] == ["TorchScript"]
