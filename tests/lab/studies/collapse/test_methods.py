import numpy as np
import pytest
import torch
from torch.nn import functional as F

from linear_backprop_lab.studies.collapse.methods import method_named
from linear_backprop_lab.studies.images.building import build_model

MLP = {"name": "mlp", "activation": "Tanh", "widths": [3072, 9, 8, 7, 10]}
ONE, EXACT, MEAN = "1", "f'(a)", "mean f'(a)"


def factor(name, a):
    """What stands in the place of tanh'(a)."""
    derivative = 1 - np.tanh(a) ** 2
    return {ONE: np.ones_like(a), EXACT: derivative, MEAN: derivative.mean(0, keepdims=True)}[name]


def gradients_by_hand(model, images, labels, to_parameters, to_chain):
    """Of the mean cross-entropy, an MLP of tanh in NumPy: weight, bias, layer by layer from the lowest.

    At the k-th activation the parameters below see g times `to_parameters[k]`, what is further down g times
    `to_chain[k]`.
    """
    layers = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in model.layers[::2]]
    h, a = [images.numpy().reshape(len(images), -1)], []
    for weight, bias in layers:
        a.append(h[-1] @ weight.T + bias)
        h.append(np.tanh(a[-1]))
    probabilities = np.exp(a[-1]) / np.exp(a[-1]).sum(1, keepdims=True)
    g = (probabilities - np.eye(10)[labels.numpy()]) / len(images)
    found = []
    for k in reversed(range(len(layers))):
        last = k == len(layers) - 1
        delta = g if last else g * factor(to_parameters[k], a[k])
        found = [delta.T @ h[k], delta.sum(0), *found]
        g = (g if last else g * factor(to_chain[k], a[k])) @ layers[k][0]
    return found


@pytest.mark.parametrize(
    "method, to_parameters, to_chain",
    [
        ("backprop", [EXACT] * 3, [EXACT] * 3),
        ("linear", [ONE] * 3, [ONE] * 3),
        ("local-linear", [EXACT] * 3, [ONE] * 3),
        ("local-mean", [EXACT] * 3, [MEAN] * 3),
        ("above:layers.1", [EXACT, ONE, ONE], [EXACT, ONE, ONE]),
        ("above:layers.3", [EXACT, EXACT, ONE], [EXACT, EXACT, ONE]),
    ],
)
def test_a_method_gives_the_gradients_written_out_in_numpy(method, to_parameters, to_chain):
    model = build_model(MLP, 0).double()
    generator = torch.Generator().manual_seed(2)
    images, labels = torch.randn(64, 3, 32, 32, generator=generator, dtype=torch.float64), torch.arange(64) % 10
    expected = gradients_by_hand(model, images, labels, to_parameters, to_chain)
    F.cross_entropy(method_named(method)(model)(images), labels).backward()
    for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
        # Float64 through four layers, summed in another order.
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", ["nonsense", "above", "above:", "linear:layers.1", "local:layers.1"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"no method is named '{name}'; use backprop, linear, .*above:<path>"):
        method_named(name)
