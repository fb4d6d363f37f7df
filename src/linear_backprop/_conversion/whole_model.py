"""The patches around the patch that a module, or a whole model, may have already: of this conversion or an earlier."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .._rules.rule import ModelRule
from .._torch.functions import Function
from .patch import Patch, Patches, patch_of


class OuterPatch(Patch):
    """A model's own `forward`, around its patch.

    Args:
        model: The model.
        patches: The patches of the conversion; the model's own is taken out of its place. Where it has none, an earlier
            conversion's is what is inside.
    """

    def __init__(self, model: nn.Module, patches: Patches) -> None:
        self.inner = patches.take_out(model) or patch_of(model)
        super().__init__(model, "", patches, selected=True)
        if self.inner is not None:
            self.mode = self.inner.mode  # that of a generator, too

    def entries(self) -> dict[str, Callable[..., Any]]:
        """Those of the inner patch, and this one's own in the place of its `forward`."""
        return {**(self.inner.entries() if self.inner else {}), **super().entries()}

    @property
    def inside(self) -> tuple[Patch, ...]:
        """The patch that it is around, if there is one."""
        return () if self.inner is None else (self.inner,)

    def of(self, module: nn.Module) -> OuterPatch:
        """The same patch of another module."""
        patch = copy.copy(self)
        patch.module, patch.inner = module, self.inner and self.inner.of(module)
        return patch

    def run_inner(self, *args: Any, **kwargs: Any) -> Any:
        """The model's `forward` without this patch."""
        return (self.inner.run if self.inner else self.run_untouched)(*args, **kwargs)


class ModelRulePatch(OuterPatch):
    """A model's own `forward` under a `ModelRule`, which runs the whole of it.

    Args:
        model: The model.
        patches: The patches of the conversion; the model's own is taken out of its place.
        observe: Told of the functions that the model's modules call, with the modules' paths.
    """

    def __init__(self, model: nn.Module, patches: Patches, observe: Callable[[str, Function], None]) -> None:
        super().__init__(model, patches)
        assert isinstance(self.rule, ModelRule)
        self._bound = self.rule.bind(model, self.run_inner, self.layers, observe)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The model's `forward`, run by the rule."""
        if not torch.is_grad_enabled():
            return self.run_untouched(*args, **kwargs)
        return self._bound(*args, **kwargs)


class CheckedPatch(OuterPatch):
    """A model's own `forward`, where only running it can tell whether it calls anything to change.

    Args:
        model: The model.
        patches: The patches of the conversion; the model's own is taken out of its place.
        check: Called with the model after its first recorded forward pass; raises where nothing was changed.
    """

    def __init__(self, model: nn.Module, patches: Patches, check: Callable[[nn.Module], None]) -> None:
        super().__init__(model, patches)
        self._check: Callable[[nn.Module], None] | None = check

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The model's `forward`, and once the check."""
        result = self.run_inner(*args, **kwargs)
        if self._check is not None and not torch.compiler.is_compiling() and _is_recorded(result):
            check, self._check = self._check, None
            check(self.module)
        return result


def _is_recorded(result: Any) -> bool:
    """True where some of a result can be differentiated: where nothing can, PyTorch's fast paths call no activation."""
    return any(isinstance(each, Tensor) and each.requires_grad for each in tree_leaves(result))
