"""One step of gradient descent: the only place where weights are updated in training."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from .._checks import as_above_zero
from ..errors import TrainingDiverged
from ..models import Network
from ..models.steps import keywords
from .optimizers import clip_grads, gradient_norm


def take_step(
    model: Network,
    optimizer: Any,
    xs: Any,
    ts: Any,
    *,
    max_grad: float | None = None,
    where: Callable[[], str] | None = None,
) -> float:
    """Forward, backward, clipping at the norm `max_grad` unless it is None, and an update.

    Returns the loss before the update. Clipping is computed where the optimizer computes, by its
    `ops`. Where the optimizer `takes_rows`, rows of an embedding that `xs` does not have are not
    touched. `where()` says in errors which step it was; without it, they say how many steps the
    optimizer has done.

    Raises TrainingDiverged where the loss or a gradient is not finite. After this and every other
    error, weights, optimizer, carried states and the layers' generators are as before the step.
    """
    if max_grad is not None:
        max_grad = as_above_zero("max_grad", max_grad)
    ops = getattr(optimizer, "ops", None)  # the textbook's optimizers have none
    sparse = (
        getattr(optimizer, "takes_rows", False)
        and _takes(optimizer.update, "rows")
        and _takes(model.backward, "sparse")
    )
    # what is not finite is an error of its own here: NumPy need not warn too
    with model.unchanged_on_error(), np.errstate(all="ignore"):
        loss = model.forward(xs, ts)
        if not math.isfinite(loss):
            raise TrainingDiverged(f"the loss is {loss}{_at(optimizer, where, max_grad)}")
        rows = None
        if sparse:
            model.backward(sparse=True)
            rows = model.grad_rows()
        else:
            model.backward()
        if max_grad is None:
            norm = gradient_norm(model.grads, ops=ops, rows=rows)
        else:
            norm = clip_grads(model.grads, max_grad, ops=ops, rows=rows)
        if not math.isfinite(norm):
            raise TrainingDiverged(
                f"the gradient of {_first_not_finite(model)} is not finite"
                f"{_at(optimizer, where, max_grad)}"
            )
        if rows is None:
            optimizer.update(model.params, model.grads)
        else:
            optimizer.update(model.params, model.grads, rows)
    return loss


def _takes(method: Callable[..., Any], name: str) -> bool:
    """Whether a method, which may be one of somebody's own, takes an argument of this name."""
    function = getattr(method, "__func__", None)
    return name in (keywords(method, 0) if function is None else _keywords(function))


@lru_cache(maxsize=64)
def _keywords(function: Callable[..., Any]) -> frozenset[str]:
    return keywords(function, 0)


def _at(optimizer: Any, where: Callable[[], str] | None, max_grad: float | None) -> str:
    """Which step it was, and what to do."""
    place = f" after {optimizer.steps} steps" if hasattr(optimizer, "steps") else ""
    if where is not None:
        place = f" {where()}"
    advice = ", or clip the gradient with max_grad" if max_grad is None else ""
    return f"{place}; try a smaller learning rate{advice}"


def _first_not_finite(model: Network) -> str:
    return next(name for name, dW in model.named_grads().items() if not np.isfinite(dW).all())
