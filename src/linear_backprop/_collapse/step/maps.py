"""The maps P from an output's cotangent g_n to those of all that the chain passes, the same for every sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..captured.layout import Form, Layout
from ..plan.cutting import Connected, Cut
from ..plan.emission import Noted
from ..plan.plan import Plan
from .gradients import Autocast, Gradients, Wanted


@dataclass
class Maps:
    """Sends the C unit vectors down a plan's chain, once, and spreads every sample's cotangent from what arrives.

    Args:
        plan: The plan.
        gradients: Its gradients.
        samples: The inputs of the collapsed part.
        leaves: Its leaves.
        outputs: Which of the results its outputs are.
        components: Those outputs, by their places among them, that have a backward pass together.
    """

    plan: Plan
    gradients: Gradients
    samples: list[Tensor]
    leaves: list[Tensor]
    outputs: list[int]
    components: list[Connected]

    def __post_init__(self) -> None:
        self.noted: list[tuple[Form, tuple[Tensor, ...]]] = []
        self.takes = tuple(z.requires_grad for z in self.samples)
        self.forms = [Form.of(z) for z in self.samples]
        self.autocast = Autocast.now(self.samples[0].device.type)

    def note(self, noted: list[tuple[Form, tuple[Tensor, ...]]]) -> None:
        """What the non-linearities noted in the forward pass."""
        self.noted = noted

    def spread(
        self, g: Sequence[Tensor | None], cuts: Sequence[Cut]
    ) -> tuple[list[Tensor | None], Iterator[Tensor | None]]:
        """The cotangents of those samples that take one, and one by one those of every activation, the last first."""
        plan = self.plan
        pairs = [(each, layout) for each, layout in zip(g, plan.output_layouts, strict=True) if each is not None]
        cotangents = torch.cat([layout.rows(each) for each, layout in pairs], 1)
        slopes = iter([cut.slope for cut in cuts])
        rows = cotangents.shape[1]
        zeros = [
            _zeros(layout, rows, form, cotangents) for layout, form in zip(plan.value_layouts, self.forms, strict=False)
        ]
        noted: list[Noted] = []
        for (n, noting), layout, (form, constants) in zip(plan.noted, plan.emitted_layouts, self.noted, strict=True):
            h = _zeros(layout, rows, form, cotangents) if noting.emits else None
            slope = next(slopes) if n.layer is None else None
            noted.append(Noted(h, slope, (h,) * noting.own if h is not None else (), constants))
        found: dict[int, Tensor] = {}
        self.gradients(
            Wanted(tuple(each is not None for each in g), self.takes, (False,) * len(self.leaves), emitted=True),
            zeros,
            self.leaves,
            noted,
            self._units(g, rows, cotangents),
            batch=plan.output_layouts[0].whole_samples(rows),
            autocast=self.autocast,
            receive=found.__setitem__,
        )
        of_samples = [
            _spread(found.get(place), cotangents, layout, form)
            for place, (layout, form, takes) in enumerate(zip(plan.value_layouts, self.forms, self.takes, strict=False))
            if takes
        ]
        emitting = [
            (layout, form, n.layer is None)
            for (n, noting), layout, (form, _) in zip(plan.noted, plan.emitted_layouts, self.noted, strict=True)
            if noting.emits
        ]
        first = len(self.samples) + len(self.leaves)
        of_h = [(found.get(first + place), *each) for place, each in enumerate(emitting)]
        activations = [(p, layout, form) for p, layout, form, is_activation in reversed(of_h) if is_activation]
        return of_samples, (_spread(p, cotangents, layout, form) for p, layout, form in activations)

    def _units(self, g: Sequence[Tensor | None], rows: int, like: Tensor) -> list[Tensor]:
        """The unit vectors, in the place of the outputs that received a cotangent."""
        units, found = torch.eye(rows, dtype=like.dtype, device=like.device), list[Tensor]()
        for each, layout in zip(g, self.plan.output_layouts, strict=True):
            if each is not None:
                width = layout.width(each.shape)
                found.append(layout.place(units[:, :width], Form.of(each), pad=0.0))
                units = units[:, width:]
        return found


def _zeros(layout: Layout, rows: int, form: Form, like: Tensor) -> Tensor:
    return layout.place(like.new_zeros(rows, layout.width(form.shape)), form)


def _spread(p: Tensor | None, g: Tensor, layout: Layout, form: Form) -> Tensor | None:
    """sum_c g_{n,c} P_c for every sample n."""
    if p is None:
        return None
    maps = layout.rows(p, form)[: g.shape[1]]
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return layout.like(g.to(maps.dtype) @ maps, form)
