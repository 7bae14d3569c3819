"""One step of gradient descent: the only place where weights are updated in training."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from .._checks import as_above_zero
from .._types import Array, Ids
from ..errors import TrainingDiverged
from ..models import Network
from ..models.steps import keywords
from ..reference.optimizer_steps import Rows
from .optimizers import clip_grads, clip_values, gradient_norm
from .ranks import ONE_RANK, OneRank


def take_step(
    model: Network,
    optimizer: Any,
    xs: Any,
    ts: Any,
    *,
    max_grad: float | None = None,
    max_value: float | None = None,
    where: Callable[[], str] | None = None,
    **options: Any,
) -> float:
    """Forward, backward, clipping, and an update.

    Gradients are clipped to -max_value..max_value first, and then at the norm `max_grad`; None
    leaves either out. Returns the loss before the update. Clipping is computed where the optimizer
    computes, by its `ops`. Where the optimizer `takes_rows`, rows of an embedding that `xs` does
    not have are not touched. `where()` says in errors which step it was; without it, they say how
    many steps the optimizer has done. All other keyword arguments, such as `lengths`, are those of
    the forward.

    Raises TrainingDiverged where the loss or a gradient is not finite. After this and every other
    error, weights, optimizer, carried states and the layers' generators are as before the step.
    """
    return take_step_of_blocks(
        model,
        optimizer,
        [(xs, ts)],
        [1],
        max_grad=max_grad,
        max_value=max_value,
        where=where,
        **options,
    )


def take_step_of_blocks(
    model: Network,
    optimizer: Any,
    blocks: Iterable[tuple[Any, Any]],
    weights: Sequence[float],
    *,
    max_grad: float | None = None,
    max_value: float | None = None,
    where: Callable[[], str] | None = None,
    ranks: OneRank = ONE_RANK,
    **options: Any,
) -> float:
    """`take_step` with the sum of the losses of blocks (xs, ts), each times its weight.

    The blocks are computed one after the other, and asked for one by one: what is done to the model
    when one is asked for belongs to the step, and is put back after an error. Several `ranks` have
    blocks of their own each, and take one step with the sum of all.
    """
    if max_grad is not None:
        max_grad = as_above_zero("max_grad", max_grad)
    if max_value is not None:
        max_value = as_above_zero("max_value", max_value)
    clips = max_grad is not None or max_value is not None
    ops = getattr(optimizer, "ops", None)  # the textbook's optimizers have none
    takes_rows = _takes(optimizer.update, "rows")
    sparse = ranks.size > 1 or (takes_rows and getattr(optimizer, "takes_rows", False))
    # what is not finite is an error of its own here: NumPy need not warn too
    with model.unchanged_on_error(), np.errstate(all="ignore"):
        sums = np.zeros(1)
        with ranks.together(sums):
            sums[0], rows = _add_up(model, blocks, weights, sparse, options)
        total = float(sums[0])
        if not math.isfinite(total):
            raise TrainingDiverged(f"the loss is {total}{_at(optimizer, where, clips)}")
        known = None  # the norm, before anything is clipped
        if ranks.size > 1:
            rows, known = ranks.sum_gradients(model, rows)
        # of these, the last says whether all are finite: who finds that they are not changes none
        if max_value is not None:
            norm, known = clip_values(model.grads, max_value, ops=ops, rows=rows), None
        if max_grad is not None:
            norm = clip_grads(model.grads, max_grad, ops=ops, rows=rows, norm=known)
        if not clips:
            norm = gradient_norm(model.grads, ops=ops, rows=rows) if known is None else known
        if not math.isfinite(norm):
            raise TrainingDiverged(
                f"the gradient of {_first_not_finite(model)} is not finite"
                f"{_at(optimizer, where, clips)}"
            )
        if takes_rows:
            optimizer.update(model.params, model.grads, rows)
        else:
            optimizer.update(model.params, model.grads)
    return total


def _add_up(
    model: Network,
    blocks: Iterable[tuple[Any, Any]],
    weights: Sequence[float],
    sparse: bool,
    options: dict[str, Any],
) -> tuple[float, Rows]:
    """The sum of the losses of blocks, each times its weight, and the rows of its gradients that
    may differ from zero. The model has these gradients then, unless the loss is not finite."""
    backward: Callable[..., Any] = model.backward
    sparse = sparse and _takes(backward, "sparse")
    if sparse:
        backward = partial(backward, sparse=True)
    total, last = 0.0, len(weights) - 1
    earlier: list[Array] = []  # sums over the blocks before, which backward overwrites
    rows: Rows = None
    for k, ((xs, ts), weight) in enumerate(zip(blocks, weights, strict=True)):
        loss = model.forward(xs, ts, **options)
        if weight:
            total += weight * loss
            if not math.isfinite(loss):
                break
        if weight == 1:
            backward()
        else:
            backward(weight)
        if not weight:  # nothing counts here; the loss may be NaN, and 0 times that is not 0
            for dW in model.grads:
                dW[...] = 0
        if sparse:
            rows = _united(rows, model.grad_rows())
        if k == last:
            for dW, more in zip(model.grads, earlier, strict=bool(earlier)):
                dW += more
        elif not earlier:
            earlier = [dW.copy() for dW in model.grads]
        else:
            for dW, more in zip(earlier, model.grads, strict=True):
                dW += more
    if rows is not None and last:
        model.set_grad_rows(rows)
    return total, rows


def _united(some: Rows, others: list[Ids | None]) -> list[Ids | None]:
    """Rows that are in one of two lists of `Network.grad_rows`, the first of which may be none."""
    if some is None:
        return others
    return [
        None if a is None or b is None else np.union1d(a, b)
        for a, b in zip(some, others, strict=True)
    ]


def _takes(method: Callable[..., Any], name: str) -> bool:
    """Whether a method, which may be one of somebody's own, takes an argument of this name."""
    function = getattr(method, "__func__", None)
    return name in (keywords(method, 0) if function is None else _keywords(function))


@lru_cache(maxsize=64)
def _keywords(function: Callable[..., Any]) -> frozenset[str]:
    return keywords(function, 0)


def _at(optimizer: Any, where: Callable[[], str] | None, clips: bool) -> str:
    """Which step it was, and what to do."""
    place = f" after {optimizer.steps} steps" if hasattr(optimizer, "steps") else ""
    if where is not None:
        place = f" {where()}"
    advice = "" if clips else ", or clip the gradient with max_grad"
    return f"{place}; try a smaller learning rate{advice}"


def _first_not_finite(model: Network) -> str:
    named = zip(model.named_params(), model.grads, strict=True)
    return next(name for name, dW in named if not np.isfinite(dW).all())
