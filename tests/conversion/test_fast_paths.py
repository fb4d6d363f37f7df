"""PyTorch's fast path through a transformer, which it leaves where a torch function mode is around."""

import pytest
import torch
from torch import Tensor, nn

import linear_backprop as lb


class Probe(nn.Module):
    """A head on an encoder that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2).requires_grad_(False)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, padded: Tensor | None) -> Tensor:
        return torch.tanh(self.head(self.encoder(x, src_key_padding_mask=padded)))


X = torch.linspace(-1, 1, 80).sin().view(2, 5, 8)
PADDED = torch.tensor([[False] * 3 + [True] * 2, [False] * 5])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("padded", [None, PADDED], ids=["whole", "padded"])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("put", ["convert", "block"])
def test_the_forward_pass_of_a_frozen_encoder_stays_as_it_is(put: str, grad: bool, padded: Tensor | None):
    model = Probe().eval()
    with torch.set_grad_enabled(grad):
        expected = model(X, padded)
        with lb.backward_rule() if put == "block" else lb.convert(model):
            assert torch.equal(model(X, padded), expected)


@pytest.mark.parametrize("by", ["input", "parameter", "hook"])
def test_an_encoder_in_which_something_takes_a_gradient_follows_the_rule(by: str):
    encoder, x, scale = Probe().eval().encoder, X.clone(), torch.ones(1)
    takes = {"input": x, "parameter": encoder.layers[0].linear1.weight, "hook": scale}[by].requires_grad_()
    if by == "hook":
        encoder.layers[0].register_forward_hook(lambda module, args, h: torch.tanh(h * scale))
    run = lambda: torch.autograd.grad(encoder(x).square().sum(), takes)[0]  # noqa: E731
    native = run()
    with lb.backward_rule(lb.PreActivation()):
        assert not torch.allclose(run(), native)


def test_a_frozen_encoder_is_not_taken_for_one_without_activations():
    encoder, x = Probe().eval().encoder, X.clone().requires_grad_()
    native = torch.autograd.grad(encoder(x).square().sum(), x)[0]
    with lb.convert(encoder, lb.PreActivation()) as conversion:
        encoder(X)
        assert not torch.allclose(torch.autograd.grad(encoder(x).square().sum(), x)[0], native)
        assert {site.what for site in conversion.changed} == {"relu (called)"}


def test_an_encoder_can_be_scripted():
    encoder = Probe().eval().encoder
    torch.testing.assert_close(torch.jit.script(encoder)(X), encoder(X))
