import pytest
import torch
from torch import nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop_lab.models import binarized_resnet18, latent_weights


def published_parameters(inflate: int) -> int:
    """By hand, from the published structure; less the batch normalization that its last block never runs."""
    a, b, c = 16 * inflate, 32 * inflate, 64 * inflate
    stem = 9 * 3 * a + 2 * a
    first = 4 * 9 * a * a + 4 * 2 * a
    second = 9 * a * b + 3 * 9 * b * b + a * b + 5 * 2 * b
    third = 9 * b * c + 3 * 9 * c * c + b * c + 5 * 2 * c - 2 * c
    return stem + first + second + third + 2 * c + 10 * c + 10 + 2 * 10


@pytest.mark.parametrize("inflate, total", [(5, 4_337_390), (1, 175_278)])
def test_has_the_published_number_of_parameters(inflate, total):
    model = binarized_resnet18(inflate)
    assert sum(parameter.numel() for parameter in model.parameters()) == total == published_parameters(inflate)


def test_stages_have_the_published_shapes():
    model, shapes = binarized_resnet18(), []
    x = torch.zeros(2, 3, 32, 32)
    for stage in model:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(80, 32, 32), (80, 32, 32), (160, 16, 16), (320, 8, 8), (320,), (10,)]


def test_has_eighteen_layers_with_weights_and_two_shortcuts():
    model = binarized_resnet18(1)
    # Stem, twelve convolutions in blocks and the linear layer are 14; the paper of ResNets counts 6 n + 2 layers, and
    # the published code takes n = (18 - 2) // 6 = 2 for depth 18. Two shortcuts have a weight, too.
    assert len(latent_weights(model)) == 14 + 2


def signs(x):
    return torch.where(x >= 0, 1.0, -1.0).double()


def test_computes_the_published_network():
    """In evaluation mode with fresh statistics, so that each batch normalization divides by sqrt(1 + 1e-5)."""
    torch.manual_seed(0)
    model = binarized_resnet18(1).double().eval()
    weights = iter([parameter.detach() for parameter in latent_weights(model)])

    def normalize(x):
        return x / (1 + 1e-5) ** 0.5

    def block(x, stride, shortcut, last=False):
        out = F.conv2d(signs(x), signs(next(weights)), stride=stride, padding=1)
        out = F.conv2d(signs(normalize(out).clamp(-1, 1)), signs(next(weights)), padding=1)
        out = out + (normalize(F.conv2d(signs(x), signs(next(weights)), stride=stride)) if shortcut else x)
        return out if last else normalize(out).clamp(-1, 1)

    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    x = normalize(F.conv2d(images, signs(next(weights)), padding=1)).clamp(-1, 1)
    x = block(block(x, 1, False), 1, False)
    x = block(block(x, 2, True), 1, False)
    x = block(block(x, 2, True), 1, False, last=True)
    x = normalize(x.mean(dim=(2, 3))).clamp(-1, 1)
    bias = model.classifier[2].bias
    expected = normalize(signs(x) @ signs(next(weights)).T + bias)
    # Float64; a pre-activation within rounding of 0 could flip a sign, and none does with this seed.
    torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)


def test_the_rule_is_on_hard_tanh_and_not_on_the_binarizer():
    model = binarized_resnet18(1)
    conversion = lb.convert(model, lb.Linear())
    assert {site.what for site in conversion.changed} == {"Hardtanh"}
    assert len(conversion.changed) == 1 + 2 * 6 - 1 + 1
    model(torch.randn(2, 3, 32, 32))
    assert {site.what for site in (*conversion.changed, *conversion.unchanged)} == {"Hardtanh"}


@pytest.mark.parametrize("rule", [lb.Exact(), lb.Clipped(), lb.PreActivation()])
def test_binarization_is_straight_through_under_every_rule(rule):
    from linear_backprop_lab.models._binarized import BinarizedLinear

    layer = BinarizedLinear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.3, -2.0, 0.0], [-0.1, 5.0, -0.7]]))
    x = torch.tensor([[0.5, -3.0, 0.0]], requires_grad=True)
    with lb.backward_rule(rule):
        y = layer(x)
    y.backward(torch.tensor([[1.0, 10.0]]))
    assert torch.equal(y - layer.bias, torch.tensor([[1.0 + 1.0 + 1.0, -1.0 - 1.0 - 1.0]]))
    assert x.grad.tolist() == [[1.0 - 10.0, -1.0 + 10.0, 1.0 - 10.0]]
    assert layer.weight.grad.tolist() == [[1.0, -1.0, 1.0], [10.0, -10.0, 10.0]]


def test_convolutions_start_from_he_fan_out():
    torch.manual_seed(0)
    for weight in latent_weights(binarized_resnet18(5))[1:-1]:
        # 12,800 weights at least: the standard error of a standard deviation is below 0.7 %.
        expected = (2 / (weight.shape[0] * weight[0, 0].numel())) ** 0.5
        assert weight.std().item() == pytest.approx(expected, rel=0.03)


def test_other_models_have_no_latent_weights():
    assert latent_weights(nn.Sequential(nn.Conv2d(3, 3, 3), nn.Linear(2, 2))) == []


@pytest.mark.parametrize("arguments", [{"inflate": 0}, {"classes": 0}])
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(ValueError, match="inflate and classes must be positive, got inflate="):
        binarized_resnet18(**arguments)
