"""Guided backpropagation and the deconvnet: captum's numbers on modules, and the same numbers in every other form."""

import warnings

import numpy as np
import pytest
import torch
from captum.attr import Deconvolution as CaptumDeconvolution
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from captum.attr import NoiseTunnel
from networks import images
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop.attribution import Deconvolution, DeepLift, GuidedBackprop

by_method = pytest.mark.parametrize(
    ("ours", "theirs"), [(GuidedBackprop, CaptumGuidedBackprop), (Deconvolution, CaptumDeconvolution)]
)


class Net(nn.Module):
    """ReLUs as modules or in another form, of the same parameters."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.layers = nn.ModuleList([nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(36, 3)])
        self.activations = nn.ModuleList([nn.ReLU(), nn.ReLU()])

    def activate(self, index: int, a: Tensor) -> Tensor:
        return {
            "modules": lambda: self.activations[index](a),
            "reused": lambda: self.activations[0](a),
            "functional": lambda: F.relu(a),
            "in place": lambda: a.relu_(),
            "made in forward": lambda: nn.ReLU()(a),
        }[self.form]()

    def forward(self, x: Tensor) -> Tensor:
        h = self.activate(1, self.layers[1](self.activate(0, self.layers[0](x))))
        return self.layers[2](h.flatten(1))


@by_method
@pytest.mark.parametrize("form", ["modules", "reused", "functional", "in place", "made in forward"])
def test_every_form_gives_what_captum_gives_on_modules(form: str, ours, theirs):
    torch.manual_seed(0)
    model = Net("modules").double()
    x = images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs(model).attribute(x.clone().requires_grad_(), target=2)
    model.form = form
    torch.testing.assert_close(ours(model).attribute(x, target=2), expected.detach(), rtol=1e-12, atol=1e-15)
    assert all(p.grad is None for p in model.parameters())


@by_method
def test_what_keeps_its_own_gradient_is_named_once(ours, theirs):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Softmax(-1))
    explainer, x = ours(model), torch.randn(3, 4)
    with pytest.warns(UserWarning, match=r"kept its own gradient: softmax \(") as caught:
        explainer.attribute(x, target=0)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer.attribute(x, target=0)


@by_method
@pytest.mark.parametrize("function", [torch.sin, torch.exp, lambda x: nn.LSTMCell(4, 4)(x)[0]])
def test_so_is_what_no_rule_is_for(ours, theirs, function):
    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(function(x))

    with pytest.warns(UserWarning, match=r"kept its own gradient: (sin|exp|lstm_cell) \("):
        ours(Bent()).attribute(torch.randn(3, 4), target=0)


@by_method
def test_tuples_and_further_arguments(ours, theirs):
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor, scale: float) -> Tensor:
            return (F.relu(x) * scale + F.relu(y)).sum(1)

    x, y = torch.ones(2, 3), torch.ones(2, 3)
    got = ours(Two()).attribute((x, y), additional_forward_args=3.0)
    assert [each.unique().tolist() for each in got] == [[3.0], [1.0]]


class SwishInAFunction(torch.autograd.Function):
    """An activation with a backward pass of its own."""

    @staticmethod
    def forward(ctx, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return a * a.sigmoid()

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].sigmoid()


class Hidden(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return SwishInAFunction.apply(x)


def scripted_swish() -> nn.Module:
    swish = torch.jit.script(swish_in_arithmetic)

    class Scripted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return swish(x)

    return Scripted()


def swish_in_arithmetic(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


@by_method
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.jit.script(nn.ReLU()), r"RecursiveScriptModule \(TorchScript: its code cannot be reached"),
        (scripted_swish, r"swish \(TorchScript: its code cannot be reached; call the function it was made from"),
        (Hidden, r"sigmoid \(ran where autograd records nothing"),
    ],
)
def test_so_is_what_cannot_be_reached(ours, theirs, make, message: str):
    with pytest.warns(UserWarning, match=message) as caught:
        ours(nn.Sequential(nn.Linear(4, 4), make())).attribute(torch.randn(3, 4), target=0)
    assert [each.filename for each in caught if each.category is UserWarning] == [__file__]


METHODS = pytest.mark.parametrize("method", [DeepLift, GuidedBackprop, Deconvolution])


@METHODS
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([[1], [2], [0]]), r"target must be .* got a tensor of torch.int64, shape \(3, 1\)"),
        ([[1], [2], [0]], r"target must be .* got \[\[1\], \[2\], \[0\]\]"),
        (np.array([1, 2, 0]), r"target must be .* got array\(\[1, 2, 0\]\)"),
        (torch.tensor([1.0, 2.0, 0.0]), "target must be .* got a tensor of torch.float32"),
        (torch.tensor(1.7), "target must be .* all of integers"),
        (5, r"target \(5,\) lies outside the outputs of a sample, shape \(5,\)"),
        ([0, 1], "got 2 targets for 3 samples"),
        ([], "got 0 targets for 3 samples"),
    ],
)
def test_a_target_in_no_form_is_refused(method, target, message: str):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5))
    with pytest.raises(lb.LinearBackpropError, match=message):
        method(model).attribute(torch.randn(3, 4), target=target)


@METHODS
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda h: h.sum(0, keepdim=True), r"a tensor of shape \(1, 4\) for [36] samples; put the batch first"),
        (lambda h: h.reshape(-1, 2), r"a tensor of shape \((6|12), 2\) for [36] samples; put the batch first"),
        (lambda h: h.sum(), r"a tensor of shape \(\) for [36] samples"),
        (lambda h: torch.fft.fft(h), "torch.complex64, .* not a real tensor"),
        (lambda h: [h], "the model returns a value of type list, not a real tensor"),
    ],
)
def test_outputs_that_are_not_of_the_samples_are_refused(method, made, message: str):
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return made(F.relu(x))

    with pytest.raises(lb.LinearBackpropError, match=message):
        method(Net()).attribute(torch.randn(3, 4), target=0)


@METHODS
def test_in_inference_mode_it_is_the_same(method):
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 5)), torch.randn(3, 4)
    with torch.inference_mode():
        got = method(model).attribute(x.clone(), target=1)
    assert torch.equal(got, method(model).attribute(x, target=1)) and not got.is_inference()


TRAINING = {
    "statistics": lambda: nn.BatchNorm1d(4),
    "dropout": lambda: nn.Dropout(0.5),
    "leaks": lambda: nn.RReLU(),
    "inner": lambda: nn.Sequential(nn.Dropout(0.1), nn.ReLU()),
}


@METHODS
@pytest.mark.parametrize("name", TRAINING)
def test_a_model_in_training_mode_is_told_of_once_where_it_differs(method, name: str):
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), TRAINING[name]()), torch.randn(6, 4)
    explainer = method(model)
    with warnings.catch_warnings(record=True) as caught:  # DeepLIFT's sums are off, too
        warnings.simplefilter("always")
        explainer.attribute(x, target=1)
        explainer.attribute(x, target=1)
    ours = [each for each in caught if "' of the model is in training mode: " in str(each.message)]
    assert len(ours) == 1 and ours[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method(model.eval()).attribute(x, target=1)
        method(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0))).attribute(x, target=1)


@METHODS
def test_an_empty_batch_has_no_attributions(method):
    assert method(nn.Sequential(nn.Linear(4, 5), nn.ReLU())).attribute(torch.randn(0, 4), target=1).shape == (0, 4)


@pytest.mark.parametrize("explainer", [GuidedBackprop, Deconvolution, DeepLift])
def test_captums_noise_tunnel_runs_over_it(explainer):
    torch.manual_seed(0)
    model, x = Net("functional").double().eval(), images()
    smooth = NoiseTunnel(explainer(model)).attribute(x, nt_samples=2, stdevs=1e-9, target=1)
    torch.testing.assert_close(smooth, explainer(model).attribute(x, target=1), rtol=1e-4, atol=1e-6)
