"""One step of gradient descent: the only place where weights are updated in training."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

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
) -> float:
    """Forward, backward, clipping at the norm `max_grad` unless it is None, and an update.

    Returns the loss before the update. Clipping is computed where the optimizer computes, by its
    `ops`. `where()` says in errors which step it was; without it, they say how many steps the
    optimizer has done.

    Raises TrainingDiverged where the loss or a gradient is not finite: weights, optimizer and
    carried states are then as before the step.
    """
    carried, ops = model.get_state(), getattr(optimizer, "ops", None)  # the textbook's has none
    # what is not finite is an error of its own here: NumPy need not warn too
    with np.errstate(all="ignore"):
        loss = model.forward(xs, ts)
        problem = None if math.isfinite(loss) else f"the loss is {loss}"
        if problem is None:
            model.backward()
            grads = model.grads
            if max_grad is None:
                norm = gradient_norm(grads, ops=ops)
            else:
                norm = clip_grads(grads, max_grad, ops=ops)
            if not math.isfinite(norm):
                problem = f"the gradient of {_first_not_finite(model)} is not finite"
        if problem is None:
            optimizer.update(model.params, model.grads)
            return loss
    model.set_state(carried)
    if where is not None:
        problem += f" {where()}"
    elif hasattr(optimizer, "steps"):
        problem += f" after {optimizer.steps} steps"
    advice = ", or clip the gradient with max_grad" if max_grad is None else ""
    raise TrainingDiverged(f"{problem}; try a smaller learning rate{advice}")


def _first_not_finite(model: Network) -> str:
    return next(name for name, dW in model.named_grads().items() if not np.isfinite(dW).all())
