"""`collapse(compile=True)`: the same gradients, outputs that lie as the model's do, and the states Dynamo may be in."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import linear_backprop as lb

pytestmark = pytest.mark.usefixtures("in_float64")


class WritesIntoViews(nn.Module):
    """PyTorch 2.13's Inductor computes what autograd makes of it wrongly."""

    def __init__(self, write: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.write, self.first, self.last = write, nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        z = h.transpose(1, 2).contiguous()
        self.write(z)
        return self.last(z.clone().relu_().transpose(1, 2) + h).mean(1)


@pytest.mark.parametrize("rule", [lb.Linear(), lb.LocallyExact()], ids=repr)
@pytest.mark.parametrize(
    "write", [lambda z: z[:, :, ::2].mul_(2), lambda z: z.diagonal(dim1=1, dim2=2).neg_()], ids=["slices", "diagonal"]
)
def test_what_is_written_into_views(write: Callable[[Tensor], object], rule: lb.Linear | lb.LocallyExact):
    torch.manual_seed(0)
    model, x = WritesIntoViews(write), torch.randn(9, 5, 6)
    twin = copy.deepcopy(model)
    with lb.convert(twin, rule):
        twin(x).square().sum().backward()
    lb.collapse(model, rule, always=True, compile=True)(x).square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_outputs_lie_as_the_models_do(memory_format: torch.memory_format):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    x = torch.randn(5, 3, 9, 9).to(memory_format=memory_format)
    assert lb.collapse(model, always=True, compile=True)(x).stride() == model(x).stride()


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_refused(layout: torch.layout):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.nested.nested_tensor([torch.randn(3, 6), torch.randn(4, 6)], layout=layout)
    with pytest.raises(lb.CollapseError, match="nested tensor"):
        lb.collapse(model, always=True)(x)


def test_where_dynamo_may_not_compile_it_says_so():
    fast = lb.collapse(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), always=True)
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(lb.CollapseError, match="fail_on_recompile"):
        fast(torch.randn(9, 6))
    fast(torch.randn(9, 6)).sum().backward()


def test_sizes_of_other_models_do_not_make_a_models_own_dynamic():
    """Inductor failed on a residual network behind a VGG19, whose sizes Dynamo had taken for the same that differ."""
    torch._dynamo.pgo.reset_code_state()
    for width in (4, 6):
        model = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        x = torch.randn(8, 3, 6 + width, 6 + width)
        model(x)
        lb.collapse(model, always=True, compile=True)(x).sum().backward()
    seen = [
        entry.size
        for code, state in torch._dynamo.pgo.get_code_state().items()
        for entry in state.automatic_dynamic.values()
        if code.name.startswith("run")
    ]
    sizes = [size for each in seen if isinstance(each, tuple) for size in each]
    assert sizes and all(isinstance(size, int) for size in sizes)
