"""Kinds of models on which a collapsed pass was once silently wrong: it equals convert's, or refuses and says why."""

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from collapse.nets import Body, Net, assert_refused, assert_right, batch, found_and_expected, hidden, pair, plain_step
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import linear_backprop as lb

pytestmark = pytest.mark.usefixtures("in_float64")

# The number of samples


@pytest.mark.parametrize(
    "of_batch",
    [
        lambda h: torch.cat([h[:10], 2 * h[10:]]),
        lambda h: torch.cat([h[:10], h[10:]]),
        lambda h: h.index_fill(0, torch.arange(2), 0.0),
        lambda h: h * torch.cat([torch.ones(min(len(h), 10), 1), torch.zeros(max(len(h) - 10, 0), 1)]),
        lambda h: h.roll(6, 0),
        lambda h: h.roll(30, 0),
        lambda h: h.triu(-10),
        lambda h: h * (torch.arange(len(h)) < 10)[:, None],
        lambda h: h * max(len(h), 8),
        lambda h: h * (len(h) // 4),
        lambda h: h * math.ceil(len(h) / 8),
        lambda h: h + (len(h) > 10),
        lambda h: torch.add(h, h, alpha=len(h) // 4),
        lambda h: h * h.new_full((len(h), 1), max(len(h), 8)),
    ],
)
def test_what_goes_by_the_place_in_the_batch_or_its_size_is_refused(of_batch: Callable[[Tensor], Tensor]):
    assert_refused(lambda s, x: s.o(of_batch(s.b(hidden(s, x)))), "cannot be collapsed")


def test_large_numbers_take_no_memory():
    assert_right(lambda s, x: s.o(torch.relu(s.b(hidden(s, x)) * 100_000 / 100_000)))
    assert_right(lambda s, x: s.o(torch.relu(s.b(hidden(s, x)[:, :1].expand(-1, 50_000)[:, :8]))))
    assert_refused(lambda s, x: s.o(s.b(hidden(s, x)).roll(100_000, 0)), "roll.*not affine")


def test_rows_overwritten_from_the_tenth_on_are_refused():
    def body(s: Net, x: Tensor) -> Tensor:
        h = hidden(s, x) * 1
        h[10:] = 0
        return s.o(h)

    assert_refused(body, "setitem.*not affine")


def test_one_graph_serves_batches_of_all_sizes():
    model, _ = pair(lambda s, x: s.o(torch.relu(s.b(hidden(s, x)))))
    fast = lb.collapse(model, always=True)
    runners = set()
    for n in (20, 7, 33, 2, 64):
        fast(batch(n)).sum().backward()
        runners.add(id(fast._engine.runner))
    assert len(runners) == 1


# Values


@pytest.mark.parametrize("fill", [torch.nan_to_num, lambda x: x + x.nansum(1, keepdim=True)])
def test_what_fills_in_missing_values_is_refused(fill: Callable[[Tensor], Tensor]):
    assert_refused(lambda s, x: s.o(hidden(s, fill(x))), "not a number")


@pytest.mark.parametrize(
    "piecewise",
    [
        lambda h: torch.maximum(h, h.new_tensor(-1e20)),
        lambda h: torch.where(h.abs() < 1e-8, 1e-8, h),
        lambda h: torch.where(h < -1e12, 0.0, h),
    ],
)
def test_kinks_that_no_value_of_today_meets_are_found(piecewise: Callable[[Tensor], Tensor]):
    assert_refused(lambda s, x: s.o(piecewise(s.b(hidden(s, x)))), "not affine|backward pass depends")


@pytest.mark.parametrize(
    "of_integer",
    [
        lambda h, k: h**k,
        lambda h, k: torch.special.chebyshev_polynomial_t(h, k),
        lambda h, k: torch.maximum(h, k - 10**15),
        lambda h, k: torch.fmod(h, k * 10**15),
    ],
)
def test_integers_that_may_change_are_refused_where_they_matter(of_integer: Callable[[Tensor, Tensor], Tensor]):
    assert_refused(lambda s, x: s.o(of_integer(s.b(hidden(s, x)), s.power)), "cannot be collapsed")


def test_indices_and_masks_of_the_model_are_no_such_integers():
    index, mask = torch.tensor([3, 1, 1, 0, 7, 2, 5, 4]), torch.arange(8) % 3 == 0
    assert_right(lambda s, x: s.o(hidden(s, x)[:, index].masked_fill(mask, 0.5).index_select(1, index)))


def test_samples_that_the_loss_leaves_out_spoil_nothing_however_large():
    def error(run: nn.Module, model: nn.Module) -> Tensor:
        x = batch().float()
        x[3] = 1e8
        loss = run(x)[torch.arange(len(x)) != 3].square().mean()
        return torch.autograd.grad(loss, [*model.parameters()])[0]

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).float()
    found = error(lb.collapse(model, always=True), model)
    with lb.convert(model):
        expected = error(model, model)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# What the forward pass changes


def counter(s: Net, x: Tensor) -> Tensor:
    y = hidden(s, x) + s.center
    s.center.add_(1)
    return s.o(s.b(y))


def counter_first(s: Net, x: Tensor) -> Tensor:
    s.center.add_(1)
    return s.o(s.b(hidden(s, x) + s.center))


def running_mean(s: Net, x: Tensor) -> Tensor:
    h = hidden(s, x)
    y = s.b(h - s.center)
    with torch.no_grad():
        s.center.mul_(0.9).add_(h.mean(0), alpha=0.1)
    return s.o(torch.relu(y))


def replaced(s: Net, x: Tensor) -> Tensor:
    h = hidden(s, x)
    y = s.b(h - s.center)
    s.center.copy_(h.detach().mean(0))
    return s.o(torch.relu(y))


@pytest.mark.parametrize("body", [counter, counter_first, running_mean, replaced])
def test_buffers_are_read_as_they_were(body: Body):
    def step(run: nn.Module, model: Net) -> None:
        for _ in range(3):
            run(batch()).square().mean().backward()
        model.a.bias.grad.add_(model.center)  # the buffer is compared, too

    assert_right(body, step)


def test_random_numbers_are_drawn_in_the_order_of_the_model_or_not_at_all():
    assert_right(lambda s, x: s.o(s.b(F.rrelu(s.a(x), training=True)) * torch.ones(8)))
    assert_refused(lambda s, x: s.o(s.b(F.rrelu(s.a(x), training=True)) * torch.rand(8)), "draws its random numbers")


@pytest.mark.parametrize(
    "register",
    [
        lambda m: m.b.register_forward_hook(lambda module, args, y: 2 * y),
        lambda m: m.register_forward_pre_hook(lambda module, args: (2 * args[0],)),
        lambda m: m.o.register_forward_hook(lambda module, args, y: y + args[0].sum(1, keepdim=True)),
    ],
)
def test_hooks_registered_and_removed_between_steps_are_seen(register: Callable[[Net], Any]):
    def step(run: nn.Module, model: Net) -> None:
        plain_step(run, model)
        hook = register(model)
        plain_step(run, model)
        hook.remove()
        plain_step(run, model)

    assert_right(lambda s, x: s.o(torch.relu(s.b(hidden(s, x)))), step)


def _twice(self: nn.Linear, x: Tensor) -> Tensor:
    return 2 * F.linear(x, self.weight)


class _Late(nn.Linear):
    @staticmethod
    def own(x: Tensor) -> Tensor:
        return x

    @property
    def factor(self) -> float:
        return 1.0

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.own(x), self.factor * self.weight)


@pytest.mark.parametrize(
    "patch",
    [
        lambda m: m.setattr(nn.Linear, "forward", _twice),
        lambda m: m.setattr(_Late, "forward", _twice),
        lambda m: m.setattr(_Late, "own", staticmethod(torch.relu)),
        lambda m: m.setattr(_Late, "own", staticmethod(lambda x: 2 * x)),
        lambda m: m.setattr(_Late, "factor", property(lambda self: 2.0)),
        lambda m: m.setattr(_Late.forward, "__code__", _twice.__code__),  # as autoreload does it in a notebook
    ],
)
def test_methods_patched_between_steps_are_seen(patch: Callable[[pytest.MonkeyPatch], None]):
    def step(run: nn.Module, model: Net) -> None:
        plain_step(run, model)
        model.b = _Late(8, 8, bias=False)
        plain_step(run, model)
        with pytest.MonkeyPatch.context() as patched:
            patch(patched)
            plain_step(run, model)
        plain_step(run, model)

    assert_right(lambda s, x: s.o(torch.relu(s.b(hidden(s, x)))), step)


def test_backward_hooks_registered_between_steps_are_refused():
    def step(run: nn.Module, model: Net) -> None:
        plain_step(run, model)
        model.b.register_full_backward_hook(lambda module, given, received: (2 * given[0],))
        plain_step(run, model)

    assert_refused(lambda s, x: s.o(torch.relu(s.b(hidden(s, x)))), "hooks", step)


def test_a_rule_inside_the_model_is_not_overruled():
    exact = lb.with_rule(torch.tanh, lb.Exact())
    assert_refused(lambda s, x: s.o(torch.relu(s.b(exact(s.a(x))))), "rule of its own")


# Inputs and outputs


def test_an_input_that_is_returned_is_the_callers_own():
    model, _ = pair(lambda s, x: (s.o(hidden(s, x)), x))
    source = batch().requires_grad_()
    x = 2 * source
    y, same = lb.collapse(model, always=True)(x)
    assert same is x
    (y.sum() + same.pow(3).sum()).backward()
    with lb.convert(model):
        other = batch().requires_grad_()
        (model(2 * other)[0].sum() + (2 * other).pow(3).sum()).backward()
    torch.testing.assert_close(source.grad, other.grad)


def test_nothing_is_left_on_the_inputs():
    x = batch()
    lb.collapse(pair(lambda s, x: s.o(hidden(s, x)))[0])(x)
    assert vars(x) == {}


def test_an_output_may_be_overwritten():
    def step(run: nn.Module, model: Net) -> None:
        y = run(batch())
        y.mul_(3).clamp_(max=1)
        y.square().mean().backward()

    assert_right(lambda s, x: s.o(hidden(s, x)), step)


def test_an_output_of_frozen_parts_takes_no_gradient():
    model, _ = pair(lambda s, x: (s.o(hidden(s, x)), hidden(s, x)))
    model.a.requires_grad_(False)
    logits, features = lb.collapse(model, always=True)(batch())
    assert logits.requires_grad
    assert not features.requires_grad


def test_squeeze_is_refused_where_it_drops_the_batch():
    body = lambda s, x: s.o(torch.relu(s.b(hidden(s, x)))).unsqueeze(2).squeeze()  # noqa: E731
    assert_refused(body, "squeeze", lambda run, model: run(batch(1)).sum().backward())
    assert_right(body)


def test_complex_outputs_are_refused():
    assert_refused(lambda s, x: torch.complex(s.o(hidden(s, x)), s.o(hidden(s, x))), "must be real")


# accumulate()


@pytest.mark.parametrize(
    "body",
    [counter, counter_first, running_mean, lambda s, x: s.o(hidden(s, x)) * torch.sigmoid(s.o.bias)],
)
def test_accumulate_equals_one_step_after_another(body: Body):
    model, twin = pair(body)
    fast = lb.collapse(model, always=True)
    seen: list[bool] = []
    model.a.weight.register_hook(lambda g: seen.append(g is None))
    with fast.accumulate():
        for x in batch().split(5):
            fast(x).square().sum().backward()
    with lb.convert(twin):
        for x in batch().split(5):
            twin(x).square().sum().backward()
    assert seen == [False]
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_accumulate_with_weights_that_are_made_in_each_forward_pass():
    model, twin = pair(lambda s, x: s.o(hidden(s, x)))
    for each in (model, twin):
        nn.utils.parametrizations.weight_norm(each.a)
    fast = lb.collapse(model, always=True)
    with fast.accumulate():
        for x in batch().split(5):
            fast(x).square().sum().backward()
    with lb.convert(twin):
        twin(batch()).square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_backward_after_accumulate_is_refused():
    model, _ = pair(lambda s, x: s.o(hidden(s, x)))
    fast = lb.collapse(model, always=True)
    with fast.accumulate():
        late = fast(batch()).sum()
        fast(batch()).sum().backward()
    with pytest.raises(lb.LinearBackpropError, match="after the block"):
        late.backward()


# Around the model


def test_the_mode_is_the_models():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout()).eval()
    fast = lb.collapse(model)
    assert not fast.training
    fast.train()
    assert model[2].training


def test_a_partial_collapse_is_pickled():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    fast = pickle.loads(pickle.dumps(lb.collapse(model, where="3")))
    fast(batch()).sum().backward()
    assert fast.uncollapsed[0].weight.grad is not None


@pytest.mark.parametrize("rule", [lb.Linear(), lb.LocallyExact()])
@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda fast, x: torch.func.vmap(fast)(x.view(4, 5, 6)), "torch.func"),
        (
            lambda fast, x: torch.autograd.grad(
                fast(x), list(fast.parameters()), torch.randn(7, 20, 3), is_grads_batched=True
            ),
            "one cotangent at a time",
        ),
        (lambda fast, x: lb.collapse(nn.Sequential(fast, nn.Tanh())), "collapse it once"),
    ],
)
def test_transforms_and_nesting_are_refused(
    run: Callable[[nn.Module, Tensor], object], reason: str, rule: lb.Linear | lb.LocallyExact
):
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    with pytest.raises(lb.CollapseError, match=reason):
        run(lb.collapse(model, rule, always=True), batch())


def test_a_dispatch_mode_is_refused():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    with FlopCounterMode(display=False), pytest.raises(lb.CollapseError, match="dispatch mode"):
        lb.collapse(model, always=True)(batch())


@pytest.mark.parametrize(
    "transformed",
    [
        lambda s, h: torch.vmap(lambda v: s.b.weight @ v)(h),
        lambda s, h: torch.func.jvp(s.b, (h,), (h,))[1],
    ],
)
def test_transforms_inside_the_model_are_refused(transformed: Callable[[Net, Tensor], Tensor]):
    assert_refused(lambda s, x: s.o(torch.relu(transformed(s, hidden(s, x)))), "torch.func")


def test_locally_exact_refuses_to_overwrite_a_view():
    def body(s: Net, x: Tensor) -> Tensor:
        h = s.a(x)
        F.relu_(h[:, :3])
        return s.o(s.b(h))

    model, twin = pair(body)
    with pytest.raises(lb.CollapseError, match="cannot overwrite a view"):
        lb.collapse(model, lb.LocallyExact(), always=True)(batch())
    with lb.convert(twin, lb.LocallyExact()), pytest.raises(lb.CollapseError, match="cannot overwrite a view"):
        twin(batch())


@pytest.mark.parametrize("rule", [lb.MeanLinear(), lb.LocallyExact(lb.MeanLinear())])
def test_slopes_by_unit_are_no_slopes_by_position(rule: lb.BackwardRule):
    model, twin = pair(lambda s, x: s.o(torch.tanh(s.b(hidden(s, x)))))
    x = torch.randn(20, 5, 6)
    lb.collapse(model, rule, always=True)(x).square().sum().backward()
    with lb.convert(twin, rule):
        twin(x).square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_mean_linear_refuses_samples_in_another_dimension():
    model, _ = pair(lambda s, x: s.o(torch.tanh(s.b(x.transpose(0, 1) @ s.a.weight.T))).transpose(0, 1))
    with pytest.raises(lb.CollapseError, match="put them first"):
        lb.collapse(model, lb.MeanLinear(), always=True)(torch.randn(20, 5, 6))


@pytest.mark.parametrize(
    "of_number",
    [
        lambda h, n: h @ torch.ones(8, 8).triu(n - 20),
        lambda h, n: h @ torch.ones(8, 8).tril(n + 5),
        lambda h, n: h * torch.arange(8.0).eq(n - 5).logical_not(),
        lambda h, n: h.view(-1, 2, 4).triu(n - 20).flatten(1),
        lambda h, n: h * torch.clamp(torch.arange(8.0), min=n - 3),
    ],
)
def test_numbers_of_the_batchs_size_are_refused_where_they_matter(of_number: Callable[[Tensor, int], Tensor]):
    assert_refused(lambda s, x: s.o(of_number(s.b(hidden(s, x)), len(x))), "cannot be collapsed")


@pytest.mark.parametrize(
    "formed",
    [
        lambda h: h * (torch.arange(8) % 3 == 0).type_as(h),
        lambda h: h * torch.linspace(0, 1, 8).expand_as(h),
        lambda h: h.masked_fill((torch.arange(8) % 3 == 0).expand_as(h), 0.0),
        lambda h: h.gather(1, torch.arange(8).flip(0).expand_as(h)),
        lambda h: torch.ones(len(h) * 8).view_as(h) * h,
        lambda h: h.view(len(h), 2, 4).transpose(1, 2).reshape(len(h), -1),
    ],
)
def test_constants_formed_like_the_samples_are_constants(formed: Callable[[Tensor], Tensor]):
    def step(run: nn.Module, model: Net) -> None:
        for n in (20, 7, 1, 2):
            run(batch(n)).square().sum().backward()

    assert_right(lambda s, x: s.o(torch.tanh(s.b(formed(hidden(s, x))))), step)


def test_the_first_call_may_be_checkpointed():
    def step(run: nn.Module, model: Net) -> None:
        torch.utils.checkpoint.checkpoint(run, batch(), use_reentrant=False).square().sum().backward()

    assert_right(lambda s, x: s.o(hidden(s, x)), step)


def test_the_first_call_may_be_where_saved_tensors_have_no_hooks():
    def step(run: nn.Module, model: Net) -> None:
        with torch.autograd.graph.disable_saved_tensors_hooks("none here"):
            run(batch()).square().sum().backward()

    assert_right(lambda s, x: s.o(hidden(s, x)), step)


def test_float16_stays_in_range():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).half()
    x = (100 * torch.randn(4096, 64)).half()
    (lb.collapse(model, always=True)(x).float().square().mean() / 1e4).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e200])
def test_cotangents_of_any_size(size: float):
    def step(run: nn.Module, model: Net) -> None:
        (run(batch()).sum() * size).backward()

    found, expected = found_and_expected(lambda s, x: s.o(hidden(s, x)), step)
    for f, e in zip(found, expected, strict=True):
        assert (f is None) == (e is None)
        if e is not None:
            torch.testing.assert_close(f / size, e / size)
