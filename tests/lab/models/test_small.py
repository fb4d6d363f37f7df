import pytest
import torch
from torch import nn

from linear_backprop_lab.models import bottleneck, inverted_residual, plain

BUILDERS = {
    "plain": lambda **settings: plain(widths=(4, 8), **settings),
    "bottleneck": lambda **settings: bottleneck((4, 8), (1, 2), **settings),
    "inverted residual": lambda **settings: inverted_residual((8, 16), **settings),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_images_become_logits_and_every_parameter_is_trained(name: str):
    model = BUILDERS[name](classes=7)
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", BUILDERS)
def test_every_activation_is_made_by_the_factory(name: str):
    model = BUILDERS[name](activation=nn.Tanh)
    assert not any(isinstance(module, nn.ReLU | nn.ReLU6) for module in model.modules())
    assert any(isinstance(module, nn.Tanh) for module in model.modules())


def test_a_bottleneck_block_runs_its_activation_three_times_and_halves_where_it_widens():
    model, runs, shapes = bottleneck((4, 8), (1, 2)).eval(), [], []
    for block in (*model.layer1, *model.layer2):
        block.relu.register_forward_hook(lambda module, inputs, output: runs.append(module))
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    model(torch.zeros(1, 3, 32, 32))
    assert [runs.count(block.relu) for block in (*model.layer1, *model.layer2)] == [3, 3, 3]
    assert shapes == [(16, 16, 16), (32, 8, 8), (32, 8, 8)]


def test_an_inverted_residual_block_adds_its_input_where_the_shape_is_kept():
    model = inverted_residual((8, 16)).eval()
    first, second = model.stage2
    for block in (first, second):
        nn.init.zeros_(block.branch[-1].weight)
        nn.init.zeros_(block.branch[-1].bias)
    x = torch.randn(1, 8, 16, 16)
    assert not first(x).any()
    assert torch.equal(second(y := torch.randn(1, 16, 8, 8)), y)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: plain(()), "give one to five positive widths"),
        (lambda: plain((4,) * 6), "give one to five positive widths"),
        (lambda: plain((4, 0)), r"got \(4, 0\), 10"),
        (lambda: bottleneck((4, 8), (1,)), r"must be as many and positive, got \(4, 8\), \(1,\)"),
        (lambda: bottleneck((4,), (0,)), "must be as many and positive"),
        (lambda: inverted_residual((8,), blocks=0), "must be positive"),
        (lambda: inverted_residual(()), "must be positive"),
    ],
)
def test_sizes_that_are_none_are_refused(build, message: str):
    with pytest.raises(ValueError, match=message):
        build()
