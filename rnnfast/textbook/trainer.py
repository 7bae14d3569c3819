"""The book's training loops. N batch rows, T time steps."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .._types import Array, ArrayLike
from .config import GPU
from .util import batch_of, clip_grads

__all__ = ["GPU", "RnnlmTrainer", "Trainer", "clip_grads", "np", "remove_duplicate"]


class _Loop:
    """Epochs of steps of descent, and a line for every so many of them.

    Attributes
    ----------
    model, optimizer : as given
    eval_interval : steps from one line to the next, or None
    current_epoch : epochs done, those of all calls of `fit`
    """

    model: Any
    optimizer: Any
    eval_interval: int | None
    current_epoch: int

    def __init__(self, model: Any, optimizer: Any) -> None:
        self.model, self.optimizer = model, optimizer
        self.eval_interval = None
        self.current_epoch = 0

    def _fit(
        self,
        blocks: Callable[[], Iterable[tuple[Array, Array]]],
        epochs: int,
        steps: int,
        max_grad: float | None,
        eval_interval: int | None,
    ) -> None:
        """`epochs` times the steps, each with one of the blocks of inputs and targets."""
        if steps < 1:
            raise ValueError(
                "batch_size: expected a batch that the data fill at least once, got a larger one; "
                "take more data or a smaller batch"
            )
        self.eval_interval = eval_interval
        total, count, started = 0.0, 0, time.time()
        for _ in range(epochs):
            for step, (xs, ts) in enumerate(blocks()):
                total, count = total + self._step(xs, ts, max_grad), count + 1
                if eval_interval is not None and step % eval_interval == 0:
                    print(
                        f"| epoch {self.current_epoch + 1} |  iter {step + 1} / {steps} | "
                        f"time {int(time.time() - started)}[s] | {self._record(total / count)}"
                    )
                    total, count = 0.0, 0
            self.current_epoch += 1

    def _step(self, xs: Array, ts: Array, max_grad: float | None) -> float:
        """One step of descent -> the loss before it."""
        loss: float = self.model.forward(xs, ts)
        self.model.backward()
        params, grads = remove_duplicate(self.model.params, self.model.grads)
        if max_grad is not None:
            clip_grads(grads, max_grad)
        self.optimizer.update(params, grads)
        return loss

    def _record(self, mean: float) -> str:
        """Keep the mean loss since the line before, and say what it is."""
        raise NotImplementedError

    def _plot(self, values: Sequence[float], name: str, ylim: tuple[float, float] | None) -> None:
        """Show a curve; needs matplotlib."""
        import matplotlib.pyplot as plt

        if ylim is not None:
            plt.ylim(*ylim)
        plt.plot(np.arange(len(values)), values, label="train")
        plt.xlabel(f"iterations (x{self.eval_interval})")
        plt.ylabel(name)
        plt.show()


class Trainer(_Loop):
    """Trains a model on rows in random order, drawn from NumPy's global generator.

    The model has `forward(x, t)`, which returns the loss, `backward()`, `params` and `grads`.

    Attributes
    ----------
    loss_list : mean losses, one for each line that was printed
    model, optimizer, eval_interval, current_epoch
    """

    loss_list: list[float]

    def __init__(self, model: Any, optimizer: Any) -> None:
        super().__init__(model, optimizer)
        self.loss_list = []

    def fit(
        self,
        x: ArrayLike,
        t: ArrayLike,
        max_epoch: int = 10,
        batch_size: int = 32,
        max_grad: float | None = None,
        eval_interval: int | None = 20,
    ) -> None:
        """Train `max_epoch` epochs on inputs x and targets t, `batch_size` rows of both at a time;
        what does not fill a batch at the end of an epoch is left out.

        The gradients are clipped at the norm `max_grad` unless that is None.
        """
        xs, ts = np.asarray(x), np.asarray(t)
        steps = len(xs) // batch_size

        def shuffled() -> Iterable[tuple[Array, Array]]:
            nonlocal xs, ts
            order = np.random.permutation(np.arange(len(xs)))
            xs, ts = xs[order], ts[order]
            for k in range(steps):
                rows = slice(k * batch_size, (k + 1) * batch_size)
                yield xs[rows], ts[rows]

        self._fit(shuffled, max_epoch, steps, max_grad, eval_interval)

    def plot(self, ylim: tuple[float, float] | None = None) -> None:
        """Show `loss_list`; needs matplotlib."""
        self._plot(self.loss_list, "loss", ylim)

    def _record(self, mean: float) -> str:
        self.loss_list.append(float(mean))
        return f"loss {mean:.2f}"


class RnnlmTrainer(_Loop):
    """Trains a language model on a text, in parallel stretches that are read block by block.

    The model is one of `Trainer`, which carries its state from block to block itself.

    Attributes
    ----------
    ppl_list : perplexities of the last `fit`, one for each line that was printed, or None
    time_idx : where in its stretch the next block begins, or None
    model, optimizer, eval_interval, current_epoch
    """

    time_idx: int | None
    ppl_list: list[float] | None

    def __init__(self, model: Any, optimizer: Any) -> None:
        super().__init__(model, optimizer)
        self.time_idx = self.ppl_list = None

    def get_batch(
        self, x: ArrayLike, t: ArrayLike, batch_size: int, time_size: int
    ) -> tuple[Array, Array]:
        """The next block of inputs x and targets t, ids (M,): both (N, T), int32."""
        xs, ts = np.asarray(x), np.asarray(t)
        start = self.time_idx or 0
        block = batch_of(xs, ts, batch_size, time_size, len(xs) // batch_size, start)
        self.time_idx = start + time_size
        return block

    def fit(
        self,
        xs: ArrayLike,
        ts: ArrayLike,
        max_epoch: int = 10,
        batch_size: int = 20,
        time_size: int = 35,
        max_grad: float | None = None,
        eval_interval: int | None = 20,
    ) -> None:
        """Train `max_epoch` epochs on inputs xs and targets ts, ids (M,).

        The gradients are clipped at the norm `max_grad` unless that is None.
        """
        inputs, targets = np.asarray(xs), np.asarray(ts)
        steps = len(inputs) // (batch_size * time_size)

        def in_turn() -> Iterable[tuple[Array, Array]]:
            for _ in range(steps):
                yield self.get_batch(inputs, targets, batch_size, time_size)

        self.time_idx, self.ppl_list = 0, []
        self._fit(in_turn, max_epoch, steps, max_grad, eval_interval)

    def plot(self, ylim: tuple[float, float] | None = None) -> None:
        """Show `ppl_list`; needs matplotlib."""
        self._plot(self.ppl_list or [], "perplexity", ylim)

    def _record(self, mean: float) -> str:
        perplexity = float(np.exp(mean))
        assert self.ppl_list is not None
        self.ppl_list.append(perplexity)
        return f"perplexity {perplexity:.2f}"


def remove_duplicate(
    params: Sequence[Array], grads: Sequence[Array]
) -> tuple[list[Array], list[Array]]:
    """The lists without parameters that stand there again; to the gradient of the first, in place,
    those of the others are added.

    The same are arrays that are one memory, read in one order or, matrices, with rows and columns
    exchanged (tied weights: W and W.T). Equal numbers in two places are two parameters.
    """
    owners = [W if W.base is None else W.base for W in params]
    if len({*map(id, owners)}) == len(params) and all(
        type(W) is np.ndarray and W.flags.owndata for W in owners
    ):
        return [*params], [*grads]  # no two can be one memory
    first: dict[Any, Array] = {}
    kept: list[Array] = []
    kept_grads: list[Array] = []
    for W, dW in zip(params, grads, strict=True):
        place = W.ctypes.data, W.dtype.str
        if (found := first.get((*place, W.shape, W.strides))) is not None:
            found += dW
        elif (found := first.get((*place, W.shape[::-1], W.strides[::-1]))) is not None:
            found += dW.T
        else:
            first[(*place, W.shape, W.strides)] = dW
            kept.append(W)
            kept_grads.append(dW)
    return kept, kept_grads
