"""Guided backpropagation and the deconvnet: captum's numbers on modules, and the same numbers in every other form."""

import warnings

import pytest
import torch
from captum.attr import Deconvolution as CaptumDeconvolution
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from networks import images
from torch import Tensor, nn
from torch.nn import functional as F

from linear_backprop.attribution import Deconvolution, GuidedBackprop

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
