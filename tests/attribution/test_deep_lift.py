"""DeepLIFT: sums that equal differences of outputs, captum's numbers where captum is right, and a model left alone."""

import warnings

import pytest
import torch
from captum.attr import DeepLift as CaptumDeepLift
from networks import NETWORKS, Functional, Residual, images, in_dimensions, network
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop.attribution import DeepLift, GuidedBackprop

by_network = pytest.mark.parametrize("name", NETWORKS)


def state(model: nn.Module) -> list[tuple[str, object]]:
    """What a model is: values, gradients, hooks, modes, and what is set on its modules."""
    tensors = [(name, (t.clone(), t.grad)) for name, t in (*model.named_parameters(), *model.named_buffers())]
    modules = [
        (name, (m.training, len(m._forward_hooks), len(m._backward_hooks), len(m._forward_pre_hooks), sorted(vars(m))))
        for name, m in model.named_modules()
    ]
    return [*tensors, *modules]


def same(left: list[tuple[str, object]], right: list[tuple[str, object]]) -> bool:
    for (name, a), (other, b) in zip(left, right, strict=True):
        tensors = isinstance(a[0], Tensor)
        if name != other or not (torch.equal(a[0], b[0]) and a[1] is b[1] if tensors else a == b):
            return False
    return True


@by_network
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
@pytest.mark.parametrize("kind", ["zero", "number", "one", "each", "near"])
def test_attributions_sum_to_the_difference_of_outputs(name: str, dtype: torch.dtype, tolerance: float, kind: str):
    model, inputs = network(name, dtype)
    torch.manual_seed(1)
    baselines = {
        "zero": (None,) * len(inputs),
        "number": (0.3,) * len(inputs),
        "one": tuple(torch.randn_like(x[:1]) for x in inputs),
        "each": tuple(torch.randn_like(x) for x in inputs),
        "near": tuple(torch.where(torch.rand_like(x) < 0.1, 0.0, x) for x in inputs),  # most values are the same
    }[kind]
    before = state(model)
    target = torch.tensor([0, 1, 2, 0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attributions, delta = DeepLift(model).attribute(
            inputs, None if kind == "zero" else baselines, target, return_convergence_delta=True
        )
    full = [
        torch.zeros_like(x) if b is None else torch.zeros_like(x) + b for x, b in zip(inputs, baselines, strict=True)
    ]
    with torch.no_grad():
        difference = (model(*inputs) - model(*full)).gather(1, target[:, None])[:, 0]
    sums = sum(a.flatten(1).sum(1) for a in attributions)
    torch.testing.assert_close(sums, difference, rtol=0, atol=tolerance)
    torch.testing.assert_close(delta, sums - difference, rtol=0, atol=tolerance)
    assert [a.shape for a in attributions] == [x.shape for x in inputs] and delta.shape == (5,)
    assert same(before, state(model))


class Plain(nn.Module):
    """What captum is right on: modules, each run once, windows that do not overlap."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(2, 4, 3, padding=1), activation(), nn.Conv2d(4, 4, 3), activation(), nn.Flatten()),
            *(nn.Linear(100, 10), activation(), nn.Linear(10, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.LeakyReLU])
@pytest.mark.parametrize("multiply", [True, False])
def test_captum_s_numbers_where_captum_is_right(activation: type[nn.Module], multiply: bool):
    torch.manual_seed(0)
    model, x, x0 = Plain(activation).double(), images(), images().flip(0) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum's, of the hooks that it sets
        expected, delta = CaptumDeepLift(model, multiply).attribute(x, x0, 1, return_convergence_delta=True)
    got, ours = DeepLift(model, multiply).attribute(x, x0, 1, return_convergence_delta=True)
    torch.testing.assert_close(got, expected.detach(), rtol=1e-8, atol=1e-12)
    if multiply:  # captum's delta without it is of the multipliers' sum
        torch.testing.assert_close(ours, delta.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "target", [1, torch.tensor(1), torch.tensor([1]), [1, 0, 2, 1, 1], torch.tensor([1, 0, 2, 1, 1]), (1,)]
)
def test_targets_in_every_form(target):
    model, (x,) = network("functional")
    got = DeepLift(model).attribute(x, target=target)
    each = [1, 0, 2, 1, 1] if len(torch.as_tensor(target).flatten()) == 5 else [1] * 5
    for i, index in enumerate(each):
        (alone,) = DeepLift(model).attribute(x[i, None], target=index)
        torch.testing.assert_close(got[i], alone, rtol=1e-10, atol=1e-13)


def test_index_tuples_choose_among_outputs_of_more_dimensions():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Unflatten(1, (2, 3))).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    one = DeepLift(model).attribute(x, target=[(0, 2), (1, 1)])
    torch.testing.assert_close(one[0], DeepLift(model).attribute(x, target=(0, 2))[0])
    torch.testing.assert_close(one[1], DeepLift(model).attribute(x, target=(1, 1))[1])


def test_additional_arguments_go_with_inputs_and_baselines():
    class Scaled(nn.Module):
        def forward(self, x: Tensor, each: Tensor, every: float, unused: None) -> Tensor:
            return (torch.tanh(x) * each * every).sum(1)

    x, each = torch.randn(3, 4), torch.randn(3, 1)
    got = DeepLift(Scaled()).attribute(x, additional_forward_args=(each, 2.0, None))
    torch.testing.assert_close(got, torch.tanh(x) * each * 2)


def test_an_affine_model_is_its_own_explanation():
    model, x = nn.Linear(4, 2), torch.randn(3, 4)
    torch.testing.assert_close(DeepLift(model).attribute(x, target=0), x * model.weight[0].detach())


def test_it_works_where_autograd_is_off_and_on_frozen_models():
    model, (x,) = network("residual")
    expected = DeepLift(model).attribute(x, target=0)
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(DeepLift(model).attribute(x, target=0), expected)
    assert not expected.requires_grad


def test_gradients_that_were_there_stay():
    model, (x,) = network("functional")
    x = x.requires_grad_()
    model(x).sum().backward()
    before = [p.grad.clone() for p in (*model.parameters(), x)]
    DeepLift(model).attribute(x, target=0)
    assert all(torch.equal(p.grad, b) for p, b in zip((*model.parameters(), x), before, strict=True))


def test_a_model_may_overwrite_its_input():
    model, x = nn.Sequential(nn.LeakyReLU(inplace=True), nn.Linear(4, 2)), torch.randn(3, 4)
    before = x.clone()
    _, delta = DeepLift(model).attribute(x, target=0, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5 and torch.equal(x, before)


def test_an_exception_leaves_the_model_as_it_was():
    model, (x,) = network("residual")
    before, leaf = state(model), x.clone().requires_grad_()
    (exact,) = torch.autograd.grad(model(leaf).sum(), leaf)
    with pytest.raises(RuntimeError):
        DeepLift(model).attribute(x[:, :1], target=0)
    assert same(before, state(model))
    assert torch.equal(torch.autograd.grad(model(leaf).sum(), leaf)[0], exact)


class Attending(nn.Module):
    """What cannot follow a rule, by name and not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(4, 4)
        self.recurrent = nn.GRU(4, 4, batch_first=True) if kind == "gru" else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return {
            "softmax": lambda: h.softmax(-1),
            "layer_norm": lambda: F.layer_norm(h, (4,)),
            "glu": lambda: F.glu(h).repeat(1, 2),
            "product": lambda: h * h.tanh(),
            "gru": lambda: self.recurrent(h[:, None])[0][:, 0] if self.recurrent else h,
        }[self.kind]()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("softmax", r"sums are off by up to .*: softmax \(normalizes over a dimension"),
        ("layer_norm", r"layer_norm \(its statistics are of the sample"),
        ("glu", r"glu \(multiplies one half"),
        ("product", "a product of activations, .*, an activation written out in arithmetic"),
        ("gru", r"gru \(a fused recurrent kernel: its activations cannot be reached"),
    ],
)
def test_what_keeps_its_own_gradient_is_named_once(kind: str, message: str):
    torch.manual_seed(0)
    explainer, x = DeepLift(Attending(kind).double()), torch.randn(3, 4, dtype=torch.float64)
    with pytest.warns(UserWarning, match=message) as caught:
        _, delta = explainer.attribute(x, target=0, return_convergence_delta=True)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert delta.abs().max() > 1e-8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer.attribute(x, target=0)


@pytest.mark.parametrize("bent", [lambda h: F.relu(h).log(), lambda h: F.relu(h) * torch.inf])
def test_nor_do_attributions_that_are_not_finite(bent):
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return bent(x)

    with pytest.warns(UserWarning, match="sums are not finite: an input, an output or a slope"):
        DeepLift(Net()).attribute(torch.ones(2, 3), target=0)


BY_THE_BATCH = {
    "scale": lambda x, each: x.tanh() / x.detach().amax(),
    "branch": lambda x, each: x.tanh() * (1.0 if x.sum() > 20 else 3.0),
    "argument": lambda x, each: x.tanh() * each.sum(),
}


@pytest.mark.parametrize("name", BY_THE_BATCH)
@pytest.mark.parametrize("returned", [True, False])
def test_samples_that_depend_on_each_other_are_told_of_and_delta_is_that_of_the_model(name: str, returned: bool):
    class Net(nn.Module):
        def forward(self, x: Tensor, each: Tensor) -> Tensor:
            return BY_THE_BATCH[name](x, each).sum(1)

    x, x0, each = torch.arange(12.0).double().reshape(3, 4) / 12, torch.full((3, 4), 2.0).double(), torch.ones(3)
    with pytest.warns(UserWarning, match="sample depends on the rest of the batch, or on chance, by up to"):
        got = DeepLift(Net()).attribute(x, x0, None, each, return_convergence_delta=returned)
    if returned:
        attributions, delta = got
        expected = attributions.sum(1) - (Net()(x, each) - Net()(x0, each))
        torch.testing.assert_close(delta, expected, rtol=0, atol=1e-12)
        assert delta.abs().max() > 1e-2


class Profiled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.profiler.record_function("forward"):
            return torch.tanh(x)


SUMS_ARE_RIGHT = {
    "profiled": Profiled,
    "parallel": lambda: nn.DataParallel(Profiled()),
    "constant statistics": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 1)), nn.InstanceNorm1d(4, track_running_stats=True), nn.Flatten(), nn.Tanh()
    ),
}


@pytest.mark.parametrize("name", SUMS_ARE_RIGHT)
def test_right_sums_pass_without_a_word(name: str):
    model, x = SUMS_ARE_RIGHT[name]().eval(), torch.randn(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, delta = DeepLift(model).attribute(x, target=0, return_convergence_delta=True)
        if name != "constant statistics":
            GuidedBackprop(model).attribute(x, target=0)
    assert delta.abs().max() < 1e-5


MAXIMA = {
    "amax": lambda h: h.amax(2),
    "max": lambda h: h.max(-1)[0],
    "maximum": lambda h: torch.maximum(h, -h).sum(2),
    "beside softmax": lambda h: h.softmax(1).amax(2),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_maxima_that_are_no_pooling_are_among_what_the_warning_names(name: str):
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return MAXIMA[name](x)

    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="what may have kept its own gradient: .*a maximum by amax, max or maximum"):
        DeepLift(Net()).attribute(torch.randn(3, 4, 6), torch.randn(3, 4, 6), target=1)


def test_a_time_first_model_does_not_pass_in_silence():
    class TimeFirst(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x.transpose(0, 1)).sum((0, 2))

    x = torch.randn(3, 4, 2, dtype=torch.float64)
    with pytest.warns(UserWarning, match="sums are off"):
        DeepLift(TimeFirst()).attribute(x)
    with pytest.raises(lb.LinearBackpropError, match="put the batch first"):
        DeepLift(TimeFirst()).attribute(x[:, :3])


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda m, x: DeepLift(m).attribute(x), r"target=None needs one output per sample, got .*\(10, 3\)"),
        (lambda m, x: DeepLift(m).attribute(x, target=[0, 1]), "got 2 targets for 5 samples"),
        (lambda m, x: DeepLift(m).attribute(x, target=True), "target must be a class, .* got True"),
        (lambda m, x: DeepLift(m).attribute(x, target=(True,)), r"target must be a class, .* got \(True,\)"),
        (lambda m, x: DeepLift(m).attribute(x, target=[0, 1, 0, 1, False]), "all of integers, got"),
        (
            lambda m, x: DeepLift(m).attribute(x, target=x[:, 0, 0, 0] > 0),
            "all of integers, got a tensor of torch.bool",
        ),
        (lambda m, x: GuidedBackprop(m).attribute(x, target=torch.tensor(True)), "got a tensor of torch.bool"),
        (lambda m, x: DeepLift(m).attribute(x, target=(0, 1)), "one index for each dimension of outputs"),
        (lambda m, x: DeepLift(m).attribute(x, (0, 0), 0), "got 2 baselines for 1 inputs"),
        (lambda m, x: DeepLift(m).attribute(x, x[:2], 0), r"shape of its input, \(5, 2, 7, 7\), or that of one sample"),
        (lambda m, x: DeepLift(m).attribute(x, [0], 0), r"a baseline is a tensor, a number or None, got \[0\]"),
        (lambda m, x: DeepLift(m).attribute(x, "zero", 0), "a baseline is a tensor, a number or None, got 'zero'"),
        (lambda m, x: DeepLift(m).attribute(x[:, 0, 0, 0], torch.tensor(0.0)), r"a baseline has the shape .* got \(\)"),
        (lambda m, x: DeepLift(m).attribute((), target=0), "inputs is an empty tuple"),
        (lambda m, x: DeepLift(m).attribute(x.long(), target=0), "floating-point tensors with the batch first"),
        (lambda m, x: DeepLift(m).attribute((x, x[:2]), target=0), "inputs differ in their batch"),
        (lambda m, x: DeepLift(m.forward).attribute(x), "attribution needs a module"),
        (lambda m, x: DeepLift(m, eps=-1.0), "epsilon must be 0 or more"),
    ],
)
def test_what_does_not_fit_is_refused(run, message: str):
    with pytest.raises(lb.LinearBackpropError, match=message):
        run(*(lambda model, inputs: (model, *inputs))(*network("functional")))


def test_a_converted_model_is_refused():
    model, (x,) = network("functional")
    with lb.convert(model), pytest.raises(lb.LinearBackpropError, match="under a conversion"):
        DeepLift(model).attribute(x, target=0)


def test_overlapping_windows_are_summed_where_captum_s_are_not():
    torch.manual_seed(0)
    model, x = in_dimensions(2).double().eval(), images()
    model(x)
    _, ours = DeepLift(model).attribute(x, target=0, return_convergence_delta=True)
    assert ours.abs().max() < 1e-12


def test_residual_and_functional_classes_are_what_captum_gets_wrong():
    for model in (Functional().double().eval(), Residual().double().eval()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = CaptumDeepLift(model).attribute(images(), target=0, return_convergence_delta=True)[1]
        assert theirs.abs().max() > 1e-3
