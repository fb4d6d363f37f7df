"""Classes that say themselves how they are copied: what they make is not converted, which is warned of."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import linear_backprop as lb


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


class CopiesItself(Net):
    def __deepcopy__(self, memo: dict) -> "CopiesItself":
        return make(CopiesItself, self.state_dict())


class Reduces(Net):
    def __reduce__(self) -> tuple:
        return make, (Reduces, self.state_dict())


class ReducesByProtocol(Net):
    def __reduce_ex__(self, protocol: int) -> tuple:
        return make, (ReducesByProtocol, self.state_dict())


def make(cls: type[Net], state: dict[str, Tensor]) -> Net:
    net = cls()
    net.load_state_dict(state)
    return net


@pytest.mark.parametrize("inside", [False, True], ids=["the model", "a part of it"])
@pytest.mark.parametrize("cls", [CopiesItself, Reduces, ReducesByProtocol])
def test_a_copy_that_a_class_makes_by_itself_is_warned_of(cls: type[Net], inside: bool):
    model = nn.Sequential(cls()) if inside else cls()
    with (
        lb.convert(model),
        pytest.warns(UserWarning, match=f"{cls.__name__} is converted and has a __.*convert the copy"),
    ):
        copy.deepcopy(model)
    copy.deepcopy(model)  # a warning would be an error: nothing is converted any more


def test_a_class_that_copies_itself_is_pickled_with_its_conversion():
    net = CopiesItself()
    lb.convert(net)
    loaded = pickle.loads(pickle.dumps(net))
    x = torch.ones(2, 3, requires_grad=True)
    (got,) = torch.autograd.grad(loaded(x).sum(), x)
    torch.testing.assert_close(got, torch.ones(2, 3) @ loaded.layer.weight)
