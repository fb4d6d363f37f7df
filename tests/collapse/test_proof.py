"""What the proof of a single operation takes into account."""

from collections.abc import Callable, Iterator

import pytest
import torch
from collapse.nets import Net, assert_refused, assert_right, batch, hidden
from torch import Tensor, nn

import linear_backprop as lb

pytestmark = pytest.mark.usefixtures("in_float64")


def operator(name: str, forward: Callable[..., Tensor], backward: Callable[..., object]) -> Callable[..., Tensor]:
    """An operator of the dispatcher with a backward pass in Python."""

    def keep(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    forward.__annotations__ = dict.fromkeys((*forward.__code__.co_varnames, "return"), Tensor)
    made = torch.library.custom_op(f"linear_backprop_tests::{name}", forward, mutates_args=())
    made.register_fake(lambda x, *_: torch.empty_like(x))
    made.register_autograd(backward, setup_context=keep)
    return made


def parameters_of(ctx, g: Tensor, of_w: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    x, w = ctx.saved_tensors
    return g * w, of_w(g, x).sum(0)


factor = [1.0]
same = operator("same", lambda x: x.clone(), lambda ctx, g: g)
turned = operator("turned", lambda x: x.clone(), lambda ctx, g: -g)
clipped = operator("clipped", lambda x: x.clone(), lambda ctx, g: g.clamp(-0.01, 0.01))
clipped_far_out = operator("clipped_far_out", lambda x: x.clone(), lambda ctx, g: g.clamp(-1e6, 1e6))
flushed = operator("flushed", lambda x: x.clone(), lambda ctx, g: g.where(g.abs() > 1e-7, 0))
centred = operator("centred", lambda x: x.clone(), lambda ctx, g: g - g.mean(0))
normed = operator("normed", lambda x: x.clone(), lambda ctx, g: g / g.norm())
shifted = operator("shifted", lambda x: x.clone(), lambda ctx, g: g + 1)
scaled = operator("scaled", lambda x: x.clone(), lambda ctx, g: g * factor[0])
product = operator("product", lambda x, w: x * w, lambda ctx, g: parameters_of(ctx, g, lambda g, x: g * x))
of_sign = operator("of_sign", lambda x, w: x * w, lambda ctx, g: parameters_of(ctx, g, lambda g, x: g * x.sign()))
of_clip = operator(
    "of_clip", lambda x, w: x * w, lambda ctx, g: parameters_of(ctx, g, lambda g, x: (g * x).clamp(-1, 1))
)
of_few = operator("of_few", lambda x: x.clone() if len(x) < 9 else x.relu(), lambda ctx, g: g)
less_mean = operator("less_mean", lambda x: x - x.mean(0) * (len(x) > 5), lambda ctx, g: g - g.mean(0) * (len(g) > 5))

folded = operator(
    "folded",
    lambda x, w: torch.where(w > 0, x, x.abs()) * w,
    lambda ctx, g: parameters_of(
        ctx, g * torch.where(ctx.saved_tensors[1] > 0, 1, ctx.saved_tensors[0].sign()), torch.mul
    ),
)
rooted = operator(
    "rooted",
    lambda x, w: x * w.sqrt(),
    lambda ctx, g: (
        g * ctx.saved_tensors[1].sqrt(),
        (g * ctx.saved_tensors[0] / ctx.saved_tensors[1].sqrt() / 2).sum(0),
    ),
)
backwards = operator(
    "backwards",
    lambda x, w: x * w,
    lambda ctx, g: (g.clamp(max=0) + g.clamp(min=0) * ctx.saved_tensors[1].sign(), None),
)


@pytest.mark.parametrize("run", [same, turned])
def test_operators_of_the_users_own_with_a_linear_backward_pass_are_right(run: Callable[[Tensor], Tensor]):
    assert_right(lambda s, x: s.o(run(s.b(hidden(s, x)))))


def test_the_gradient_of_a_parameter_that_such_an_operator_takes_is_right():
    assert_right(lambda s, x: s.o(product(hidden(s, x), s.b.bias)))


def test_one_that_takes_positive_parameters_alone_is_right_at_those():
    assert_right(lambda s, x: s.o(rooted(hidden(s, x), s.b.bias.exp())))


@pytest.mark.parametrize("run", [clipped, clipped_far_out, flushed, centred, normed, shifted])
def test_a_backward_pass_that_is_not_linear_or_mixes_samples_is_refused(run: Callable[[Tensor], Tensor]):
    assert_refused(lambda s, x: s.o(run(s.b(hidden(s, x)))), "its backward pass is not that of an affine map")


@pytest.mark.parametrize("run", [of_sign, of_clip])
def test_so_is_one_that_gives_a_parameter_something_else(run: Callable[[Tensor, Tensor], Tensor]):
    assert_refused(lambda s, x: s.o(run(hidden(s, x), s.b.bias)), "its backward pass is not that of an affine map")


@pytest.mark.parametrize("run", [folded, backwards])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_operator_that_is_affine_for_positive_parameters_alone_is_refused(
    run: Callable[[Tensor, Tensor], Tensor], sign: int
):
    assert_refused(lambda s, x: s.o(run(hidden(s, x), sign * s.b.bias.exp())), "for some values of its parameters")


@pytest.mark.parametrize("run", [of_few, less_mean])
def test_an_operator_that_is_something_else_for_more_samples_is_refused(run: Callable[[Tensor], Tensor]):
    assert_refused(lambda s, x: s.o(run(s.b(hidden(s, x)))), "it is not affine in each sample")


@pytest.fixture
def schedule() -> Iterator[list[float]]:
    yield factor
    factor[0] = 1.0


def test_a_backward_pass_in_python_reads_what_it_reads_today(schedule: list[float]):
    def step(run: nn.Module, model: Net) -> None:
        for value in (1.0, 3.0, 0.0):
            schedule[0] = value
            run(batch()).square().mean().backward()

    assert_right(lambda s, x: s.o(scaled(s.b(hidden(s, x)))), step)


@pytest.mark.parametrize(
    "run", [torch.maximum, torch.minimum, torch.fmax, torch.logaddexp, torch.mul, lambda a, b: torch.where(a > b, a, b)]
)
def test_a_proof_for_a_tensor_with_itself_is_none_for_two(run: Callable[[Tensor, Tensor], Tensor]):
    def body(s: Net, x: Tensor) -> Tensor:
        h = hidden(s, x)
        k = torch.relu(s.b(h))
        return s.o(torch.maximum(h, h) + run(h, k))

    assert_refused(body, "cannot be collapsed")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_replaces_what_is_not_finite_is_refused(value: float):
    kept = {"nan": torch.nan, "posinf": torch.inf, "neginf": -torch.inf}
    name = "nan" if value != value else "posinf" if value > 0 else "neginf"
    assert_refused(lambda s, x: s.o(torch.nan_to_num(s.b(hidden(s, x)), **(kept | {name: 1.0}))), "not a number")


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, 0.5])
def test_features_that_are_masked_with_infinity_are_constants(value: float):
    assert_right(lambda s, x: s.o(torch.sigmoid(s.b(hidden(s, x)).masked_fill(torch.arange(8) < 3, value))))


def test_an_infinity_in_some_samples_is_none_in_all():
    assert_refused(lambda s, x: s.o(hidden(s, x).masked_fill(x[:, :1] > 0, -torch.inf).tanh()), "cannot be collapsed")


def test_anomaly_detection_sees_the_models_own_values_alone():
    def step(run: nn.Module, model: Net) -> None:
        with torch.autograd.detect_anomaly():
            run(batch()).square().mean().backward()

    assert_right(lambda s, x: s.o(torch.relu(s.b(hidden(s, x)))), step)


def test_a_rule_does_not_reach_into_a_module_that_convert_leaves_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.SyncBatchNorm(8), nn.ReLU(), nn.Linear(8, 2))
    fast = lb.collapse(model, layers=lb.LINEAR_LAYERS, always=True)
    with pytest.raises(lb.CollapseError, match=r"SyncBatchNorm at '1'.*eval mode"):
        fast(batch())
    model.eval()
    fast(batch()).sum().backward()


def test_sizes_that_depend_on_values_are_refused_as_such():
    def body(s: Net, x: Tensor) -> Tensor:
        h = hidden(s, x)
        h[:, s.center > 0] *= 2
        return s.o(h)

    assert_refused(body, "its size depends on values, such as a mask's: multiply by the mask.*make indices outside")


@pytest.mark.parametrize(
    "empty",
    [
        lambda h: h.new_empty(h.shape),
        torch.empty_like,
        lambda h: torch.empty(len(h), 8),
        lambda h: torch.empty_strided((len(h), 8), (8, 1)),
    ],
)
def test_memory_that_is_filled_is_no_fault(empty: Callable[[Tensor], Tensor]):
    def body(s: Net, x: Tensor) -> Tensor:
        h = hidden(s, x)
        filled = empty(h)
        filled[:, :4] = h[:, 4:]
        filled[:, 4:] = 2
        return s.o(torch.relu(s.b(filled)))

    torch.use_deterministic_algorithms(True)  # and what is not filled is not a number
    try:
        assert_right(body)
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_is_read_again_after_an_in_place_write_does_not_belong_into_the_loss():
    def body(s: Net, x: Tensor) -> Tensor:
        h = hidden(s, x)
        h[:, :4].mul_(h[:, 4:])
        return s.o(h)

    assert_refused(body, "Write it otherwise, or use lb.convert")


def detached_in_place(s: Net, x: Tensor) -> Tensor:
    h = s.b(hidden(s, x))
    doubled = 2 * h
    doubled.detach_()
    return s.o(torch.relu(h + doubled))


def test_what_detaches_in_place_is_not_overlooked():
    assert_refused(detached_in_place, r"detach_ at 'the model' cannot be collapsed.*Use detach\(\) instead")
    assert_right(lambda s, x: s.o(torch.relu(s.b(hidden(s, x))) * (1 * s.center * s.b.bias).detach_()))


@pytest.mark.parametrize("place", [-1, 1])
def test_numbers_of_samples_are_refused_as_such(place: int):
    def body(s: Net, x: Tensor) -> Tensor:
        h = hidden(s, x).view(-1, 2, 4)
        return s.o(torch.cat([h[torch.arange(len(x)), place], h[:, 0]], 1))

    assert_refused(body, "it numbers the samples, and numbers cannot be combined. Index without it")


moded = operator(
    "moded",
    lambda x, t: x.abs() if t.item() > 3 else x.clone(),
    lambda ctx, g: (g * ctx.saved_tensors[0].sign() if ctx.saved_tensors[1].item() > 3 else g.clone(), None),
)
twice_like = operator("twice_like", lambda x: x * 2, lambda ctx, g: g * 2)


@pytest.mark.parametrize("values", [(1.0, 5.0), (5.0, 1.0)])
def test_an_operator_of_ones_own_is_tried_at_each_of_its_constants(values: tuple[float, float]):
    first, second = map(torch.tensor, values)
    assert_refused(lambda s, x: s.o(moded(s.b(moded(hidden(s, x), first)), second)), "moded at 'the model'")


def test_an_operator_of_ones_own_is_what_it_does_and_not_what_it_is_called():
    assert_refused(lambda s, x: s.o(hidden(s, x) * twice_like(hidden(s, x))), "not affine in each sample")


@pytest.mark.parametrize(
    "power",
    [
        lambda s, h: s.power.expand(len(h), 1),
        lambda s, h: torch.ones(len(h), 8, dtype=torch.long) * s.power,
        lambda s, h: s.power,
    ],
)
def test_integers_may_be_others_tomorrow_whether_each_sample_has_them_or_all(power: Callable[[Net, Tensor], Tensor]):
    reason = "for some values of its integers only"
    assert_refused(lambda s, x: s.o(s.b(hidden(s, x)) ** power(s, x)), reason)


@pytest.mark.parametrize(
    "alike", [torch.ones_like, lambda h: h.new_zeros(len(h), 8), lambda h: torch.zeros_like(h[:, :1])]
)
def test_what_is_alike_lies_as_the_samples_that_it_is_made_like(alike: Callable[[Tensor], Tensor]):
    def body(s: Net, x: Tensor) -> Tensor:
        h = torch.tanh(s.a(torch.cat([x, 2 * x])))
        return s.o(h * (1 + alike(h)))

    assert_right(body)
