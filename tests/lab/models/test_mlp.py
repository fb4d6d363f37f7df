import numpy as np
import pytest
import torch
from torch import nn

from linear_backprop_lab.models import MLPEnsemble, mlp

WIDTHS = (1, 50, 50, 50, 50, 1)
SEEDS = (3, 0, 11)
# Float32 sums of 50 products, added up in another order: a few roundings of values up to about 1.
FLOAT32 = 1e-5


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.linspace(-1, 3, 7).unsqueeze(1)


def single(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return mlp(WIDTHS, nn.Tanh)


def test_it_has_the_papers_shape() -> None:
    model = mlp(WIDTHS, nn.ReLU)
    assert [type(module) for module in model] == [nn.Linear, nn.ReLU] * 4 + [nn.Linear]
    assert sum(p.numel() for p in model.parameters()) == 50 + 50 + 3 * (50 * 50 + 50) + 50 + 1


def test_every_activation_is_a_module_of_its_own() -> None:
    assert len({id(module) for module in mlp(WIDTHS, nn.ReLU)}) == 9


@pytest.mark.parametrize("widths", [(), (4,), (2, 0, 1)])
def test_widths_that_make_no_network_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"two or more positive numbers, got \("):
        mlp(widths, nn.Tanh)


def test_networks_start_as_separate_ones_do_to_the_bit() -> None:
    ensemble = MLPEnsemble.from_seeds(WIDTHS, torch.tanh, SEEDS)
    for n, seed in enumerate(SEEDS):
        layers = [module for module in single(seed) if isinstance(module, nn.Linear)]
        for layer, weight, bias in zip(layers, ensemble.weights, ensemble.biases, strict=True):
            assert torch.equal(layer.weight, weight[n].T)
            assert torch.equal(layer.bias, bias[n])


def test_drawing_the_networks_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    MLPEnsemble.from_seeds(WIDTHS, torch.tanh, SEEDS)
    assert torch.equal(torch.rand(3), expected)


def test_no_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds is empty; give one seed a network"):
        MLPEnsemble.from_seeds(WIDTHS, torch.tanh, ())


def test_outputs_are_those_of_separate_networks(inputs: torch.Tensor) -> None:
    outputs = MLPEnsemble.from_seeds(WIDTHS, torch.tanh, SEEDS)(inputs)
    assert outputs.shape == (3, 7, 1)
    for output, seed in zip(outputs, SEEDS, strict=True):
        torch.testing.assert_close(output, single(seed)(inputs), rtol=FLOAT32, atol=FLOAT32)


def test_units_are_those_of_each_layer_computed_in_numpy(inputs: torch.Tensor) -> None:
    units = MLPEnsemble.from_seeds(WIDTHS, torch.tanh, SEEDS).units(inputs)
    assert len(units.pre_activations) == len(units.activations) == 4
    for n, seed in enumerate(SEEDS):
        h = inputs.double().numpy()
        layers = [module for module in single(seed) if isinstance(module, nn.Linear)]
        for k, layer in enumerate(layers[:-1]):
            a = h @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
            h = np.tanh(a)
            np.testing.assert_allclose(units.pre_activations[k][n].detach().numpy(), a, rtol=FLOAT32, atol=FLOAT32)
            np.testing.assert_allclose(units.activations[k][n].detach().numpy(), h, rtol=FLOAT32, atol=FLOAT32)
