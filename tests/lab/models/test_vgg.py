import pytest
import torch
from torch import nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop_lab.models import vgg19

# Configuration E of Simonyan and Zisserman (2014), table 1, written out: channels, and M for a pooling.
CONFIGURATION_E = "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M".split()


def test_has_the_published_number_of_parameters():
    # As published with the CIFAR form in widely used model collections.
    assert sum(parameter.numel() for parameter in vgg19().parameters()) == 20_040_522


def test_without_batch_norm_lacks_its_scales_and_shifts_alone():
    channels = sum(int(step) for step in CONFIGURATION_E if step != "M")
    assert sum(parameter.numel() for parameter in vgg19(batch_norm=False).parameters()) == 20_040_522 - 2 * channels


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_computes_configuration_e(batch_norm, pooling):
    torch.manual_seed(0)
    model = vgg19(1 / 32, nn.Tanh, batch_norm=batch_norm, pooling=pooling).double().eval()
    parameters = iter(model.parameters())
    expected = images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for step in CONFIGURATION_E:
        if step == "M":
            expected = F.max_pool2d(expected, 2) if pooling == "max" else F.avg_pool2d(expected, 2)
            continue
        expected = F.conv2d(expected, next(parameters), next(parameters), padding=1)
        assert expected.shape[1] == int(step) // 32
        if batch_norm:  # Fresh running statistics are 0 and 1, so what is left is the scale, the shift and eps.
            scale, shift = next(parameters).view(-1, 1, 1), next(parameters).view(-1, 1, 1)
            expected = expected / (1 + 1e-5) ** 0.5 * scale + shift
        expected = expected.tanh()
    expected = expected.flatten(1) @ next(parameters).T + next(parameters)
    # Float64 through 17 layers: rounding of another order of summation.
    torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-12)
    assert next(parameters, None) is None


# Variances of the weights: of U(-b, b), b^2 / 3.
VARIANCES = {
    "he": lambda inputs, outputs: 2 / (9 * outputs),
    "xavier": lambda inputs, outputs: 6 / (9 * (inputs + outputs)) / 3,
    "default": lambda inputs, outputs: 1 / (9 * inputs) / 3,
}


@pytest.mark.parametrize("initialization", VARIANCES)
def test_convolutions_start_from_the_initialization_named(initialization):
    torch.manual_seed(0)
    for layer in vgg19(0.5, initialization=initialization).modules():
        if isinstance(layer, nn.Conv2d):
            expected = VARIANCES[initialization](layer.in_channels, layer.out_channels) ** 0.5
            # 864 weights at least: the standard error of a standard deviation is below 2.5 %.
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert bool(layer.bias.any()) == (initialization == "default")


def test_starts_from_he_fan_out_unless_told():
    torch.manual_seed(0)
    unless_told = vgg19(1 / 32)
    torch.manual_seed(0)
    assert torch.equal(unless_told.features[0].weight, vgg19(1 / 32, initialization="he").features[0].weight)


def test_every_activation_is_a_module_of_its_own_that_converts():
    model = vgg19(1 / 32, nn.SiLU)
    activations = [module for module in model.modules() if isinstance(module, nn.SiLU)]
    assert len(set(map(id, activations))) == 16
    assert len(lb.convert(model).changed) == 16


@pytest.mark.parametrize("width, first", [(0.125, 8), (0.3, 19), (1e-6, 1)])
def test_width_scales_channels(width, first):
    assert vgg19(width).features[0].out_channels == first


def test_classes_sets_the_outputs():
    assert vgg19(1 / 64, classes=7)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pooling": "median"}, r"unknown pooling 'median'; use one of 'max', 'average'"),
        ({"initialization": "zero"}, r"unknown initialization 'zero'; use one of 'he', 'xavier', 'default'"),
        ({"width": 0.0}, r"must be positive, got width=0.0, classes=10"),
        ({"classes": 0}, r"must be positive, got width=1.0, classes=0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        vgg19(**arguments)
