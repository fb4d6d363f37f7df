"""Random models under `torch.compile`, their graphs broken at random places: what they compute follows the rule."""

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from collapse.random_models import FEATURES, SAMPLES, gradients, max_difference, other_model
from torch import Tensor, nn

import linear_backprop as lb

pytestmark = pytest.mark.usefixtures("in_float64")

RULES: list[dict[str, Any]] = [
    {"rule": lb.Linear()},
    {"rule": lb.PreActivation()},
    {"rule": lb.MeanLinear()},
    {"rule": lb.Linear(), "layers": lb.LINEAR_LAYERS},
]
WAYS = ("convert, compile", "compile, convert", "convert, compile in place", "block around", "block within")


def broken_at_random(model: nn.Module, draw: random.Random) -> None:
    """Put hooks that break the graph on up to three modules."""
    modules = list(model.modules())[1:]
    for module in draw.sample(modules, min(len(modules), draw.randint(0, 3))):
        if draw.random() < 0.5:
            module.register_forward_pre_hook(lambda module, args: torch._dynamo.graph_break())
        else:
            module.register_forward_hook(lambda module, args, output: torch._dynamo.graph_break())


def compiled(model: nn.Module, way: str, options: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """The model under the rule and compiled, one way or another."""
    compiling = torch.compile(backend="aot_eager")
    if way.startswith("block"):
        inner: Any = compiling(model) if way == "block around" else model

        def ruled(x: Tensor) -> Tensor:
            with lb.backward_rule(**options):
                return inner(x)

        return ruled if way == "block around" else compiling(ruled)
    if way == "compile, convert":
        run: Any = compiling(model)
        lb.convert(run, **options)
        return run
    lb.convert(model, **options)
    if way == "convert, compile":
        return compiling(model)
    model.compile(backend="aot_eager")
    return model


@pytest.mark.parametrize("seed", range(15))
def test_random_models(seed: int):
    draw, way, options = random.Random(seed), WAYS[seed % len(WAYS)], RULES[seed % len(RULES)]
    model, names = other_model(seed)
    if way == "block within" and "checkpointed" in names:
        pytest.skip("Dynamo keeps modes out of checkpointed functions")
    twin = copy.deepcopy(model)
    broken_at_random(model, draw)
    x = torch.randn(SAMPLES, FEATURES, generator=torch.Generator().manual_seed(seed))
    with lb.convert(twin, **options):
        expected = gradients(twin, twin, x, seed)
    found = gradients(compiled(model, way, options), model, x, seed)
    assert max_difference(found, expected) < 1e-7, names
