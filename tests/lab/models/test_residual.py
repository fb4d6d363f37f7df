import pytest
import torch
from torch import nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop_lab.models import ConstantBatchNorm2d, calibrate, residual

# Float64 through a dozen layers: rounding of another order of summation.
FLOAT64 = {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture
def images():
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def small(normalization, activation=nn.Tanh):
    torch.manual_seed(0)
    return residual((4, 6), activation, normalization=normalization).double()


def test_computes_what_its_docstring_says(images):
    """Written out with the functions of PyTorch, parameters taken in the order of `named_parameters`."""
    model = small("none")
    nn.init.normal_(model.stage1[1].branch[3].weight, std=0.1)
    nn.init.normal_(model.stage2[1].branch[3].weight, std=0.1)
    p = iter(model.parameters())

    def convolution(x, padding=1):
        return F.conv2d(x, next(p), next(p), padding=padding)

    h = convolution(images).tanh()
    h = (h + convolution(convolution(h).tanh())).tanh()
    h = F.avg_pool2d(h, 2)
    branch = convolution(convolution(h).tanh())
    h = (branch + convolution(h, padding=0)).tanh()
    expected = h.mean((2, 3)) @ next(p).T + next(p)
    assert next(p, None) is None
    torch.testing.assert_close(model(images), expected, **FLOAT64)


@pytest.mark.parametrize("normalization", ["constant", "batch", "none"])
def test_has_a_block_a_stage_and_an_output_a_class(normalization):
    model = residual((4, 6, 8), blocks=2, normalization=normalization, classes=7)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert len(lb.convert(model).changed) == 1 + 3 * 2 * 2


def test_without_normalization_a_block_starts_as_its_shortcut(images):
    block = small("none", nn.Identity).stage1[1]
    x = images.repeat(1, 2, 1, 1)[:, :4]
    assert torch.equal(block(x), x)


def test_calibration_normalizes_every_channel(images):
    model = small("constant")
    before = [parameter.clone() for parameter in model.parameters()]
    calibrate(model, images)
    seen = []
    for layer in model.modules():
        if isinstance(layer, ConstantBatchNorm2d):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.detach()))
    model.train()(images)
    assert len(seen) == 5
    for output in seen:
        # PyTorch normalizes the batch by its biased variance and keeps the unbiased one: 1 in at least 1,535 apart.
        torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(output.shape[1]).double(), rtol=0, atol=2e-3)
        torch.testing.assert_close(output.var((0, 2, 3)), torch.ones(output.shape[1]).double(), rtol=0, atol=5e-3)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_constant_statistics_stay_while_training(images):
    model = small("constant")
    assert not any(layer.training for layer in model.modules() if isinstance(layer, ConstantBatchNorm2d))
    calibrate(model, images)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()
    model(images * 3 + 1).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
    assert all(layer.momentum == 0.1 for layer in model.modules() if isinstance(layer, ConstantBatchNorm2d))


@pytest.mark.parametrize("normalization", ["constant", "none"])
def test_collapses_to_the_gradients_of_linear_backprop(normalization, images):
    model, other = small(normalization), small(normalization)
    for one in (model, other):
        calibrate(one, images)
        for name, parameter in one.named_parameters():
            if name.endswith("branch.3.weight"):
                nn.init.constant_(parameter, 0.1)
    batch = images.repeat(16, 1, 1, 1) + torch.linspace(0, 1, 96, dtype=torch.float64).view(-1, 1, 1, 1)
    labels = torch.arange(96) % 10
    F.cross_entropy(lb.collapse(model, always=True).train()(batch), labels).backward()
    with lb.convert(other):
        F.cross_entropy(other.train()(batch), labels).backward()
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, **FLOAT64, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"normalization": "layer"}, "unknown normalization 'layer'; use one of 'constant', 'batch', 'none'"),
        ({"widths": ()}, r"must be positive, got \(\), 1, 10"),
        ({"blocks": 0}, r"must be positive, got \(16, 32, 64\), 0, 10"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        residual(**arguments)
