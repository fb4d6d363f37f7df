"""What the table of a conversion lists as left alone, flags as arithmetic, and takes back."""

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import linear_backprop as lb


class Calls(nn.Module):
    """A function called on a layer's output."""

    def __init__(self, function) -> None:
        super().__init__()
        self.below = nn.Linear(4, 4).double()
        self.function = [function]

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0](self.below(x)).tanh()


X = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 4)


def listed(function) -> dict[str, str]:
    """What a model that calls a function, and tanh, leaves alone, with the reasons."""
    model = Calls(function)
    with lb.convert(model) as conversion:
        model(X)
        assert "tanh (called)" in {site.what for site in conversion.changed}
        return {site.what.partition(".")[0].removesuffix(" (called)"): site.reason for site in conversion.unchanged}


@pytest.mark.parametrize("name", ["absolute", "arctan", "arcsinh", "sinh", "cosh", "exp2", "log1p"])
@pytest.mark.parametrize("owner", [torch, torch.Tensor, torch.ops.aten])
def test_functions_outside_the_catalogue_are_listed_under_every_name(name: str, owner):
    assert listed(lambda z: getattr(owner, name)(z.sigmoid()))[name].startswith("elementwise, but not in the catalogue")


ONES = torch.ones(4, 4, dtype=torch.float64)
RECURRENT = {
    "lstm_cell": lambda z: torch.lstm_cell(z, (z, z), ONES.repeat(4, 1), ONES.repeat(4, 1))[0],
    "gru_cell": lambda z: torch.gru_cell(z, z, ONES.repeat(3, 1), ONES.repeat(3, 1)),
    "rnn_relu_cell": lambda z: torch._VF.rnn_relu_cell(z, z, ONES, ONES),
    "rnn_tanh_cell": lambda z: torch.ops.aten.rnn_tanh_cell(z, z, ONES, ONES),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_kernels_are_listed_where_they_are_called(name: str):
    assert listed(RECURRENT[name])[name].startswith("a fused recurrent kernel")


@pytest.mark.parametrize(
    "function",
    [lambda z: torch.ops.aten.softmax.int(z, -1), lambda z: torch._softmax(z, -1, False), lambda z: z.softmax(-1)],
    ids=["an overload", "a kernel", "a method"],
)
def test_softmax_is_listed_in_every_form(function):
    assert any(reason.startswith("normalizes") for reason in listed(function).values())


@torch.library.custom_op("linear_backprop_tests::bent", mutates_args=())
def bent(x: Tensor) -> Tensor:
    return x.relu()


bent.register_autograd(
    lambda ctx, g: g * (ctx.saved_tensors[0] > 0),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


@pytest.mark.parametrize("call", [bent, torch.ops.linear_backprop_tests.bent], ids=["the function", "the operator"])
def test_operators_of_other_libraries_are_listed(call):
    assert listed(call)["bent"].startswith("an operator with a backward pass of its own")


@pytest.mark.parametrize("namespace", ["primus", "atenuate", "fsdp_of_others"])
def test_a_namespace_is_pytorch_s_by_the_whole_of_its_name(namespace: str):
    with torch.library._scoped_library(namespace, "FRAGMENT") as library:
        library.define("bent(Tensor x) -> Tensor")
        library.impl("bent", torch.relu, "CompositeImplicitAutograd")
        operator = getattr(torch.ops, namespace).bent
        assert listed(operator)["bent"].startswith("an operator with a backward pass of its own")


KERNELS_OF_LAYERS = {
    "native_layer_norm": lambda z: torch.native_layer_norm(z, (4,), None, None, 1e-5)[0],
    "native_group_norm": lambda z: torch.native_group_norm(z, None, None, 3, 4, 1, 2, 1e-5)[0],
}


@pytest.mark.parametrize("name", KERNELS_OF_LAYERS)
def test_normalizations_are_listed_by_their_kernels_too(name: str):
    with lb.convert(model := Calls(KERNELS_OF_LAYERS[name]), layers=lb.LINEAR_LAYERS) as conversion:
        model(X)
        assert f"{name} (called)" in {site.what for site in conversion.unchanged}


UNUSUAL = {
    "heaviside": lambda z: torch.heaviside(z.detach(), ONES[0]) + z,
    "special_i0": torch.special.i0,
    "fake_quantize_per_tensor_affine": lambda z: torch.fake_quantize_per_tensor_affine(
        z.float(), 0.1, 0, 0, 9
    ).double(),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_steps_and_quantizers_are_listed(name: str):
    assert listed(UNUSUAL[name])[name].startswith("elementwise, but not in the catalogue")


@torch.jit.script
def scripted(z: Tensor) -> Tensor:
    return z.relu()


def around(function) -> nn.Module:
    class Closed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x).tanh()

    return Closed()


class Attribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = scripted

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x).tanh()


@pytest.mark.parametrize("make", [Attribute, functools.partial(around, scripted)], ids=["an attribute", "a closure"])
def test_functions_in_torchscript_are_listed_where_the_module_has_them(make):
    assert any(site.reason.startswith("TorchScript") for site in lb.convert(make()).unchanged)


class LearnedSwish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.8, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(self.scale * x))


class OfModules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(1.702 * x)


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x).mul_(x)


class Augmented(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(x)
        h *= x
        return h


@pytest.mark.parametrize("make", [LearnedSwish, Buffered, OfModules, InPlace, Augmented])
def test_activations_in_arithmetic_are_flagged_whatever_they_are_made_of(make: type[nn.Module]):
    model = nn.Sequential(nn.Linear(4, 4).double(), make())
    with lb.convert(model) as conversion:
        model(X)
        assert [bool(site.note) for site in conversion.changed] == [True]


class Layer(nn.Module):
    """A layer, written out: its bias is no part of an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(ONES.clone()), nn.Parameter(ONES[0].clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight + self.bias)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.below, self.act = nn.Linear(4, 4).double(), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.below(x))


@pytest.mark.parametrize("make", [Layer, Residual])
def test_arithmetic_of_layers_is_not(make: type[nn.Module]):
    model = make()
    with lb.convert(model) as conversion:
        model(X)
        assert [site.note for site in conversion.changed] == [""]


def test_a_clamp_of_integers_is_not_listed():
    model = nn.Sequential(around(lambda z: z * torch.arange(4).clamp(0, 1)))
    with lb.convert(model) as conversion:
        model(X)
        assert [site.what for site in conversion.changed] == ["tanh (called)"]


def test_a_row_is_taken_back_while_a_later_conversion_decides():
    shared = nn.Tanh()
    first, second = nn.Sequential(nn.Linear(4, 4), shared), nn.Sequential(shared)
    conversion = lb.convert(first)
    with lb.convert(second, lb.Clipped()) as later:
        assert [site.reason for site in conversion.unchanged] == ["a later conversion decides"]
        assert len(later.changed) == 1
    assert [site.backward_pass for site in conversion.changed] == ["Linear()"]


def test_a_row_stays_under_later_conversions_of_other_modules_and_of_single_runs():
    model = nn.Sequential(nn.Tanh(), nn.ReLU())
    conversion = lb.convert(model)
    lb.convert(model, lb.Clipped(), where="1")
    lb.convert(model, lb.Surrogate("silu"), where=lb.calls("0", 1))
    assert [site.path for site in conversion.changed] == ["0"]


def test_a_row_of_a_module_that_was_replaced_is_taken_back():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.ReLU())
    conversion = lb.convert(model)
    model[1] = nn.Sigmoid()
    assert [(site.what, site.reason) for site in conversion.unchanged] == [
        ("Tanh", "another module has taken its place")
    ]
    assert [site.what for site in conversion.changed] == ["ReLU"]


def test_modes_of_ones_own_around_see_what_is_left_alone():
    class Doubled(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {})) * (2 if func in (torch.softmax, torch.exp) else 1)

    function = lambda x: torch.softmax(x, -1) + torch.exp(x)  # noqa: E731
    with Doubled():
        expected = function(X)
        with lb.backward_rule(), lb.backward_rule(lb.Clipped()):
            assert torch.equal(function(X), expected)
