"""The iterative fast gradient sign method under a backward rule."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._conversion.convert import convert
from .._conversion.where import Where
from .._errors import LinearBackpropError
from .._rules.elementwise import Exact
from .._rules.layers import require_layers
from .._rules.rule import BackwardRule, LayerRule
from ._arguments import (
    require_change,
    require_classes,
    require_eval_mode,
    require_generator,
    require_images,
    require_labels,
    require_logits,
    require_model,
    require_size,
    require_steps,
)


@dataclass(frozen=True)
class Ruled:
    """The arguments of one conversion."""

    rule: BackwardRule
    where: Where = None
    layers: tuple[LayerRule, ...] = ()


class IterativeFGSM:
    """The iterative fast gradient sign method (I-FGSM), with momentum MI-FGSM, its gradient under a backward rule.

    x_0 = x, or x + U(-eps, eps) with a random start; then, `steps` times, x <- clip(x + alpha * sign(m)) to within eps
    of the images and to [0, 1]. Here m = momentum * m + grad / |grad|_1 for each image, grad being the gradient of the
    cross-entropy by x; with momentum 0 its sign is grad's. Where grad is 0, x stays. With `targeted` it goes the other
    way, towards the labels. The model is under the rule while the attack runs; weights, their gradients, modes and
    grad mode stay as they were. Sources: Kurakin et al. (2017), eq. 2; Dong et al. (2018), algorithm 1; Madry et al.
    (2018) for the random start.

    Args:
        model: Any module from images to logits (N, classes), in eval mode; normalization belongs into it.
        eps: The largest change of a pixel.
        alpha: A step's.
        steps: How many steps.
        momentum: The decay of the sum of earlier gradients; MI-FGSM's is 1.
        random_start: True to start anywhere within eps.
        targeted: True where labels are the classes to reach.
        rule: As in `convert`; None leaves the model's backward pass as it is, which may be under a conversion already;
            with `layers` it is `Exact`.
        where: As in `convert`.
        layers: As in `convert`.
        generator: Of the random start; None for PyTorch's own.

    Raises:
        LinearBackpropError: An argument does not fit; at the call: images outside [0, 1] or not of floating point,
            labels that are not classes of the model, a model in training mode, or a gradient that is not finite.

    Examples:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
        >>> attack = lb.attacks.IterativeFGSM(model, eps=8 / 255, alpha=2 / 255, steps=10, momentum=1.0)
        >>> images, labels = torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
        >>> adversarial = attack(images, labels)
        >>> bool((adversarial - images).abs().max() <= 8 / 255 + 1e-6)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        *,
        momentum: float = 0.0,
        random_start: bool = False,
        targeted: bool = False,
        rule: BackwardRule | None = None,
        where: Where = None,
        layers: Iterable[LayerRule] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        require_model(model)
        require_generator(generator)
        self.model, self.random_start, self.targeted, self.generator = model, random_start, targeted, generator
        self.eps, self.alpha = require_change(eps, "eps"), require_change(alpha, "alpha")
        self.steps, self.momentum = require_steps(steps), require_size(momentum, "momentum")
        self._conversions = self._rules(rule, where, require_layers(layers))
        with self._converted():  # whatever `convert` refuses, it refuses now
            pass

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The adversarial images.

        Args:
            images: (N, ...), floating point, in [0, 1].
            labels: (N,), integers: the images' classes, or the targets.

        Returns:
            A tensor of the shape, dtype and device of `images`, in [0, 1]. Steps are added up in float32 at least, and
            the sum is rounded to the dtype of `images` without leaving eps.
        """
        require_eval_mode(self.model)
        with torch.inference_mode(False), torch.enable_grad():
            images = require_images(images).clone()
            labels = require_labels(labels, images)
            if not len(images):
                return images
            exact = _in_float32_at_least(images)  # a step is less than what bfloat16 tells apart
            low, high = (exact - self.eps).clamp(min=0), (exact + self.eps).clamp(max=1)
            adversarial = self._start(exact).clamp(low, high)
            summed, nothing = torch.zeros_like(exact), torch.zeros_like(exact)
            with self._converted():
                for number in range(self.steps):
                    given = adversarial.to(images.dtype)
                    direction = gradient(self.model, given, labels, check_labels=number == 0)
                    nothing = torch.add(nothing, direction, alpha=0)  # not a number once a gradient is not finite
                    if self.momentum:
                        direction = summed = self.momentum * summed + _at_unit_length(direction)
                    step = -self.alpha if self.targeted else self.alpha
                    adversarial = torch.add(adversarial, direction.sign(), alpha=step).clamp_(low, high)
        if nothing.isnan().any():
            raise LinearBackpropError(
                "the gradient of the loss is not finite for some images: nor is the model's output, or its backward "
                f"pass under {', '.join(repr(each.rule) for each in self._conversions) or 'no rule'}"
            )
        return _rounded_towards(images, adversarial, self.eps)

    def __repr__(self) -> str:
        rules = ", ".join(repr(each.rule) for each in self._conversions)
        settings = f"eps={self.eps:.4g}, alpha={self.alpha:.4g}, steps={self.steps}, momentum={self.momentum:g}"
        return f"<{type(self).__name__}: {settings}{f', {rules}' if rules else ''}>"

    def _rules(self, rule: BackwardRule | None, where: Where, layers: tuple[LayerRule, ...]) -> list[Ruled]:
        """The conversions, one upon the other."""
        if rule is not None or layers:
            return [Ruled(Exact() if rule is None else rule, where, layers)]
        if where is not None:
            raise LinearBackpropError("where selects what follows a rule; give a rule, or layers, with it")
        return []

    def _converted(self) -> ExitStack:
        """A context in which the model is under the rules."""
        with ExitStack() as stack:
            for each in self._conversions:
                stack.enter_context(convert(self.model, each.rule, each.where, each.layers))
            return stack.pop_all()

    def _start(self, images: Tensor) -> Tensor:
        if not self.random_start:
            return images
        drawn = torch.rand(images.shape, generator=self.generator, dtype=images.dtype, device=images.device)
        return images + self.eps * (2 * drawn - 1)


def gradient(model: nn.Module, images: Tensor, labels: Tensor, *, check_labels: bool) -> Tensor:
    """The gradient of each image's own cross-entropy by the image; no `.grad` is touched."""
    leaf = images.detach().requires_grad_()
    # A copy, lest a model whose first operation is in place writes into a leaf.
    logits = require_logits(model(leaf.clone()), labels)
    if check_labels:  # once: on a GPU, the processor waits for the answer
        require_classes(labels, logits)
    if not logits.requires_grad:
        raise LinearBackpropError("the model's output does not depend on the images in a differentiable way")
    (of_images,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), leaf)
    return of_images


def _in_float32_at_least(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _rounded_towards(images: Tensor, adversarial: Tensor, eps: float) -> Tensor:
    """The adversarial images in the images' dtype; where the nearest number lies beyond eps, the one before it."""
    if adversarial.dtype == images.dtype:
        return adversarial
    rounded = adversarial.to(images.dtype)
    beyond = (rounded.double() - images.double()).abs() > eps
    return torch.where(beyond, torch.nextafter(rounded, images), rounded)


def _at_unit_length(gradients: Tensor) -> Tensor:
    """Each image's gradient over its mean absolute value, which is its 1-norm but for a factor; 0 where it is 0."""
    # In float32 at least: one pixel's may be as large as the number of pixels, more than float16 holds.
    flat = _in_float32_at_least(gradients.flatten(1))
    largest = flat.abs().amax(1, keepdim=True)
    scaled = flat / torch.where(largest == 0, 1.0, largest)
    mean = scaled.abs().mean(1, keepdim=True)
    return (scaled / torch.where(mean == 0, 1.0, mean)).view_as(gradients)
