"""Conversion of models: what is found, changed, left alone and restored."""

import copy
import io
import pickle
from collections import OrderedDict

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


@pytest.mark.parametrize("path", ["first.1", "second.1"])
def test_a_module_is_selected_by_any_of_its_paths(path: str):
    relu = nn.ReLU()
    blocks = {name: nn.Sequential(nn.Linear(2, 2), relu) for name in ("first", "second")}
    model = nn.Sequential(OrderedDict(blocks))
    for where in (path, lambda asked, module: asked == path):
        with lb.convert(model, where=where) as conversion:
            assert [site.path for site in conversion.changed] == ["first.1"]
    asked: list[str] = []
    with pytest.raises(lb.ConversionError):
        lb.convert(model, where=lambda path, module: asked.append(path))
    assert asked.count("first.1") == asked.count("second.1") == 1


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
    whole = lb.convert(model)
    with pytest.raises(lb.ConversionError, match="the model was converted again"):
        first.remove()
    whole.remove()
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_copy_of_a_scripted_model_is_refused_as_such():
    model = copy.deepcopy(torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU())))
    with pytest.raises(lb.ConversionError, match="TorchScript: its code cannot be reached"):
        lb.convert(model, lb.LocallyExact())


class Layers(nn.Module):
    """Layers that are not elementwise, as modules and called, and some that no rule governs."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Sequential(nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.Dropout(0.5))
        self.norm = nn.LocalResponseNorm(2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.local_response_norm(self.norm(self.below(x)), 2)
        return F.max_pool2d(h, 2, return_indices=True)[0].flatten(1)


def layer_gradient(model: nn.Module) -> Tensor:
    x = torch.arange(64.0).view(2, 2, 4, 4).cos().requires_grad_()
    torch.manual_seed(0)
    return torch.autograd.grad(model(x)[:, 0].sum(), x)[0]


def expected_gradient(batch: bool, maximum: bool, dropout: bool, called: bool) -> Tensor:
    """`layer_gradient(Layers())`, written out with blocks around single calls."""

    def under(rule: lb.LayerRule, wanted: bool):
        return lb.backward_rule(lb.Exact(), layers=[rule] if wanted else [])

    model, (normalize, pool, drop) = Layers(), lb.LINEAR_LAYERS[1::-1] + lb.LINEAR_LAYERS[2:]

    def forward(h: Tensor) -> Tensor:
        with under(normalize, batch):
            h = model.below[0](h)
        with under(pool, maximum):
            h = model.below[1](h)
        with under(drop, dropout):
            h = model.below[2](h)
        h = F.local_response_norm(model.norm(h), 2)
        with under(pool, called):
            return F.max_pool2d(h, 2).flatten(1)

    return layer_gradient(forward)


@pytest.mark.parametrize(
    ("layers", "where", "followed"),
    [
        (lb.LINEAR_LAYERS, None, (True, True, True, True)),
        (lb.LINEAR_LAYERS, "below.*", (True, True, True, False)),
        (lb.LINEAR_LAYERS, "below.1", (False, True, False, False)),
        (lb.LINEAR_LAYERS, lambda path, module: path == "", (False, False, False, True)),
        ([lb.AveragedMaximum()], None, (False, True, False, True)),
        ([lb.ConstantStatistics()], None, (True, False, False, False)),
        ([lb.StraightThroughDropout()], None, (False, False, True, False)),
    ],
)
@pytest.mark.parametrize("rule", [EXACT, LINEAR])
def test_layers_and_where_select(layers, where, followed, rule):
    model = Layers()
    untouched = layer_gradient(model)
    conversion = lb.convert(model, rule, where=where, layers=layers)
    assert torch.equal(layer_gradient(model), expected_gradient(*followed))
    conversion.remove()
    assert torch.equal(layer_gradient(model), untouched)


def test_the_report_lists_layers_once_rules_for_them_are_given():
    model = nn.Sequential(Layers(), nn.ReLU(), nn.SyncBatchNorm(2).eval(), nn.LPPool1d(2, 1))
    conversion = lb.convert(model)
    layer_gradient(model)
    assert [site.what for site in conversion.changed] == ["ReLU"]
    assert not conversion.unchanged
    conversion.remove()
    conversion = lb.convert(model, layers=lb.LINEAR_LAYERS)
    layer_gradient(model)
    assert {(site.path, site.what, site.rule) for site in conversion.changed} == {
        ("0.below.0", "BatchNorm2d", lb.ConstantStatistics()),
        ("0.below.1", "MaxPool2d", lb.AveragedMaximum()),
        ("0.below.2", "Dropout", lb.StraightThroughDropout()),
        ("0", "max_pool2d_with_indices (called)", lb.AveragedMaximum()),
        ("1", "ReLU", lb.Linear()),
    }
    assert {(site.path, site.what): site.reason.split(":")[0].split(",")[0] for site in conversion.unchanged} == {
        ("0.norm", "LocalResponseNorm"): "its statistics are of the sample",
        ("0", "local_response_norm (called)"): "its statistics are of the sample",
        ("2", "SyncBatchNorm"): "across processes it runs a backward pass of its own",
        ("3", "LPPool1d"): "a power mean of each window",
    }
    assert "0.below.1  MaxPool2d                         AveragedMaximum()" in str(conversion)


def test_a_model_of_layers_alone_is_changed_by_their_rules_only():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.MaxPool2d(2))
    with pytest.raises(lb.ConversionError, match="the model has no elementwise activation to change"):
        lb.convert(model)
    assert repr(lb.convert(model, layers=lb.LINEAR_LAYERS)).endswith("1 changed, 0 left alone>")
    with pytest.raises(lb.ConversionError, match="no elementwise activation, and no layer that `layers` govern, to"):
        lb.convert(nn.Sequential(nn.MaxPool2d(2)), layers=[lb.StraightThroughDropout()])


def test_conversions_of_layers_nest():
    model = Layers()
    first = lb.convert(model, layers=lb.LINEAR_LAYERS)
    second = lb.convert(model, where="below.*", layers=[lb.ConstantStatistics()])
    assert torch.equal(layer_gradient(model), expected_gradient(True, True, True, True))
    second.remove()
    with lb.convert(model, where="below.1", layers=[lb.AveragedMaximum()]), lb.backward_rule(EXACT):
        assert torch.equal(layer_gradient(model), expected_gradient(True, True, True, True))
    first.remove()
    assert torch.equal(layer_gradient(model), expected_gradient(False, False, False, False))


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_with_converted_layers_travels(travel):
    model = Layers()
    conversion = lb.convert(model, layers=lb.LINEAR_LAYERS)
    twin = travel(model)
    conversion.remove()
    assert torch.equal(layer_gradient(twin), expected_gradient(True, True, True, True))


def test_a_later_conversion_keeps_the_rules_of_layers_that_it_has_none_for():
    model = Layers()
    first = lb.convert(model, layers=lb.LINEAR_LAYERS)
    with lb.convert(model, lb.PreActivation(), layers=[lb.StraightThroughDropout()]):
        assert torch.equal(layer_gradient(model), expected_gradient(True, True, True, True))
    first.remove()
    assert torch.equal(layer_gradient(model), expected_gradient(False, False, False, False))


def test_a_shared_module_is_selected_by_any_of_its_paths():
    act = nn.Tanh()
    model = nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act)
    for where in ("3", lb.after("2")):
        with lb.convert(model, where=where) as conversion:
            assert [site.path for site in conversion.changed] == ["1"]


def test_a_compiled_model_with_functional_activations_alone():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.layer(x))

    torch.compiler.reset()
    model = Functional()
    lb.convert(torch.compile(model, backend="aot_eager"))
    model(-torch.ones(4, 3)).sum().backward()
    assert model.layer.bias.grad.tolist() == [4.0, 4.0, 4.0]
