"""One step of gradient descent: the only place where weights are updated in training."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._checks import as_above_zero
from ..errors import TrainingDiverged
from ..models import Network
from .optimizers import clip_grads, gradient_norm


def take_step(
    model: Network,
    optimizer: Any,
    xs: Any,
    ts: Any,
    *,
    max_grad: float | None = None,
    where: Callable[[], str] | None = None,
    **options: Any,
) -> float:
    """Forward, backward, clipping at the norm `max_grad` unless it is None, and an update.

    Returns the loss before the update. Clipping is computed where the optimizer computes, by its
    `ops`. `where()` says in errors which step it was; without it, they say how many steps the
    optimizer has done. All other keyword arguments, such as `lengths`, are those of the forward.

    Raises TrainingDiverged where the loss or a gradient is not finite. After this and every other
    error, weights, optimizer, carried states and the layers' generators are as before the step.
    """
    if max_grad is not None:
        max_grad = as_above_zero("max_grad", max_grad)
    ops = getattr(optimizer, "ops", None)  # the textbook's optimizers have none
    # what is not finite is an error of its own here: NumPy need not warn too
    with model.unchanged_on_error(), np.errstate(all="ignore"):
        loss = model.forward(xs, ts, **options)
        if not math.isfinite(loss):
            raise TrainingDiverged(f"the loss is {loss}{_at(optimizer, where, max_grad)}")
        model.backward()
        if max_grad is None:
            norm = gradient_norm(model.grads, ops=ops)
        else:
            norm = clip_grads(model.grads, max_grad, ops=ops)
        if not math.isfinite(norm):
            raise TrainingDiverged(
                f"the gradient of {_first_not_finite(model)} is not finite"
                f"{_at(optimizer, where, max_grad)}"
            )
        optimizer.update(model.params, model.grads)
    return loss


def _at(optimizer: Any, where: Callable[[], str] | None, max_grad: float | None) -> str:
    """Which step it was, and what to do."""
    place = f" after {optimizer.steps} steps" if hasattr(optimizer, "steps") else ""
    if where is not None:
        place = f" {where()}"
    advice = ", or clip the gradient with max_grad" if max_grad is None else ""
    return f"{place}; try a smaller learning rate{advice}"


def _first_not_finite(model: Network) -> str:
    return next(name for name, dW in model.named_grads().items() if not np.isfinite(dW).all())
