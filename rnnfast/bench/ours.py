"""What rnnfast does. A task has `run`, which is timed, and `results`, which are compared."""

import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from types import SimpleNamespace
from typing import Any

import numpy as np

import rnnfast
from rnnfast import kernels
from rnnfast._ops import Ops
from rnnfast._types import Array, Ids
from rnnfast.cells import CELLS
from rnnfast.layers import (
    TIME_LAYERS,
    TimeBiGRU,
    TimeBiLSTM,
    TimeBiRNN,
    TimeEmbedding,
    TimeGRU,
    TimeLSTM,
    TimeRNN,
    TimeStack,
    time_layer,
)
from rnnfast.layers.cell import CELL_OPTIONS
from rnnfast.layers.recurrent import TimeRecurrent
from rnnfast.models import Network
from rnnfast.training.ranks import OneRank, world
from rnnfast.training.steps import take_step, take_step_of_blocks

from . import problems, programs

BIDIRECTIONAL: dict[Any, Any] = {TimeRNN: TimeBiRNN, TimeLSTM: TimeBiLSTM, TimeGRU: TimeBiGRU}


def peak(run: Callable[[], Any]) -> int:
    """Bytes that two first calls have allocated at most (all memory comes from NumPy)."""
    tracemalloc.start()
    run()
    run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def recurrent(
    cell: str, weights: Sequence[Array], directions: int, layers: int, **options: Any
) -> TimeRecurrent:
    """The layer of a cell in one or two directions, or a stack of those of one."""
    kind = CELLS[cell].weights
    if directions == 2:
        names = (name + number for number in "12" for name in kind)
        named = dict(zip(names, weights, strict=True))
        both: TimeRecurrent = BIDIRECTIONAL[TIME_LAYERS[cell]](
            **named, **CELL_OPTIONS[cell], **options
        )
        return both
    each = [weights[k : k + len(kind)] for k in range(0, len(weights), len(kind))]
    if layers > 1:
        return TimeStack.from_layers([time_layer(cell, *own) for own in each], **options)
    return time_layer(cell, *weights, **options)


class Layer:
    """A recurrent layer, `way` "forward", "both" (forward and backward) or "inference"."""

    ops: Ops = kernels
    xs: Array
    dhs: Array
    lengths: Ids | None
    layer: TimeRecurrent
    run: Callable[[], list[Array]]

    def __init__(
        self,
        threads: int,
        *,
        cell: str,
        dtype: str,
        shape: Sequence[int],
        way: str,
        directions: int = 1,
        layers: int = 1,
        ragged: bool = False,
        **options: Any,
    ) -> None:
        rnnfast.set_num_threads(threads)
        several = {"directions": directions, "layers": layers}
        self.xs, weights, self.dhs = problems.layer(cell, dtype, shape, **several)
        self.lengths = problems.lengths(shape) if ragged else None
        self.layer = recurrent(cell, weights, **several, ops=self.ops, rng=0, **options)
        self.run = getattr(self, way)

    def forward(self) -> list[Array]:
        return [self.layer.forward(self.xs, lengths=self.lengths)]

    def inference(self) -> list[Array]:
        return [self.layer.forward(self.xs, lengths=self.lengths, need_gradient=False)]

    def both(self) -> list[Array]:
        return [*self.forward(), self.layer.backward(self.dhs), *self.layer.grads]

    def results(self) -> list[Array]:
        return self.run()

    def peak(self) -> int:
        return peak(self.run)


class LayerAfterProduct(Layer):
    """The same, called right after a matrix product of a library with threads of its own."""

    before: Callable[[], Any]

    def __init__(self, threads: int, *, library: str, **layer: Any) -> None:
        super().__init__(threads, **layer)
        A, B = problems.matrices(512)
        if library == "torch":
            import torch

            torch.set_num_threads(threads)
            A, B = torch.from_numpy(A), torch.from_numpy(B)
        self.before = lambda: A @ B


class FaintLayer(Layer):
    """The same, of which something is denormal: its `faint` "inputs", "weights" or "gradients", or
    becomes so: "fading gradients", from the last step on. Nothing is where that is empty."""

    def __init__(self, threads: int, *, faint: str, **layer: Any) -> None:
        super().__init__(threads, **layer)
        if faint == "inputs":
            self.xs = problems.DENORMAL * self.xs
        elif faint == "weights":
            for W in self.layer.params:
                W *= problems.DENORMAL
        elif faint == "gradients":
            self.dhs = problems.DENORMAL * self.dhs
        elif faint == "fading gradients":
            self.dhs = problems.FADING * self.dhs
            self.dhs[:, :-1] = 0


class Update:
    """Steps of an optimizer with gradients of that size, which stay the same."""

    ops: Ops = kernels
    params: list[Array]
    grads: list[Array]
    optimizer: Any

    def __init__(self, threads: int, *, optimizer: str, size: float, shape: Sequence[int]) -> None:
        rnnfast.set_num_threads(threads)
        W, dW = problems.dropout(shape)
        self.params, self.grads = [W], [size * dW]
        self.optimizer = getattr(rnnfast, optimizer)(ops=self.ops)

    def run(self) -> None:
        self.optimizer.update(self.params, self.grads)

    def results(self) -> list[Array]:
        self.run()
        self.run()
        return self.params


class Loss:
    """A loss of M rows and its gradient, where half of V logits are so much lower."""

    ops: Ops = kernels
    inputs: tuple[Array, Array]
    layer: Any

    def __init__(self, threads: int, *, loss: str, M: int, V: int, lower: float) -> None:
        rnnfast.set_num_threads(threads)
        xs, W, b = problems.affine(M, V, V, False)
        b[::2] -= lower
        targets = np.zeros((M, 1), np.int64)
        if loss == "TimeAffineWithLoss":
            self.layer = rnnfast.TimeAffineWithLoss(W, b, ops=self.ops)
        else:
            xs = xs + b
            self.layer = getattr(rnnfast, loss)(ops=self.ops)
            if loss == "TimeSigmoidWithLoss":
                targets = np.zeros(xs.shape, np.int64)
        self.inputs = xs, targets

    def run(self) -> list[Array]:
        loss = self.layer.forward(*self.inputs)
        return [np.array(loss, np.float32), self.layer.backward()]

    def results(self) -> list[Array]:
        return self.run()


class Training:
    """Steps of a language model: forward, backward, SGD."""

    ops: Ops = kernels
    model: Any
    optimizer: rnnfast.SGD
    blocks: list[tuple[Ids, Ids]]
    steps: int

    def __init__(
        self,
        threads: int,
        *,
        cell: str,
        N: int,
        T: int,
        V: int,
        D: int,
        H: int,
        layers: int = 1,
        precision: str | None = None,
    ) -> None:
        rnnfast.set_num_threads(threads)
        self.model = problems.language_model(
            cell, V, D, H, num_layers=layers, precision=precision, ops=self.ops
        )
        self.optimizer = rnnfast.SGD(problems.LEARNING_RATE)
        self.blocks, self.steps = problems.blocks(N, T, V), 0

    def run(self) -> float:
        xs, ts = self.blocks[self.steps % len(self.blocks)]
        self.steps += 1
        loss: float = self.model.forward(xs, ts)
        self.model.backward()
        self.update()
        return loss

    def update(self) -> None:
        self.optimizer.update(self.model.params, self.model.grads)

    def results(self) -> list[Array]:
        """Losses of four steps, and the parameters after them."""
        return [np.array([self.run() for _ in range(4)], "f"), *self.model.params]

    def peak(self) -> int:
        return peak(self.run)


class SharedTraining(Training):
    """Steps of a trainer, which shares the lanes among all ranks."""

    ranks: OneRank
    mine: slice
    spent: list[tuple[float, float, float]]

    def __init__(self, threads: int, *, N: int, **sizes: Any) -> None:
        super().__init__(threads, N=N, **sizes)
        self.optimizer = rnnfast.SGD(problems.LEARNING_RATE, ops=self.ops)
        self.ranks = world()
        self.ranks.hold_gradients(self.model)
        self.mine = self.ranks.share(N)
        self.spent = []

    def run(self) -> float:
        xs, ts = self.blocks[self.steps % len(self.blocks)]
        self.steps += 1
        mine, ranks = self.mine, self.ranks
        start, seconds, sent = time.perf_counter(), ranks.seconds, ranks.sent
        with ranks.together(np.zeros(1)):  # which a trainer has about each step
            loss = take_step_of_blocks(
                self.model,
                self.optimizer,
                [(xs[mine], ts[mine])],
                [len(xs[mine]) / len(xs)],
                max_grad=1.0,
                ranks=ranks,
            )
        passed = time.perf_counter() - start
        self.spent.append((passed, ranks.seconds - seconds, ranks.sent - sent))
        return loss

    def communication(self) -> list[float]:
        """Seconds of a step, those of them in communication, and bytes handed over: medians of all
        steps, means of the ranks."""
        medians = np.array([statistics.median(column) for column in zip(*self.spent, strict=True)])
        with self.ranks.together(medians):
            pass
        return [float(x) / self.ranks.size for x in medians]


class SmallSums:
    """A thousand sums of one number over the ranks."""

    def __init__(self, threads: int) -> None:
        rnnfast.set_num_threads(threads)
        self.ranks = world()

    def run(self) -> None:
        for _ in range(1000):
            self.ranks.any(False)

    def size(self) -> int:
        """Bytes of them."""
        return 8 * 1000


class SumOfGradients(SharedTraining):
    """The sum of all gradients of a language model, and nothing else."""

    def run(self) -> float:
        self.ranks.sum_gradients(self.model, None)
        return 0.0

    def size(self) -> int:
        """Bytes of them."""
        return sum(dW.nbytes for dW in self.model.grads)


class WideTable(Training):
    """Steps of a model whose embedding has more rows than it has outputs."""

    model: Any
    optimizer: rnnfast.SGD
    blocks: list[tuple[Ids, Ids]]
    steps: int

    def __init__(self, threads: int, *, rows: int, N: int, T: int, V: int, D: int, H: int) -> None:
        rnnfast.set_num_threads(threads)
        self.model = problems.wide_table(rows, V, D, H, ops=self.ops)
        self.optimizer = rnnfast.SGD(problems.LEARNING_RATE, ops=self.ops)
        ids, targets = problems.blocks(N, T, rows), problems.blocks(N, T, V)
        self.blocks = [(xs, ts) for (xs, _), (_, ts) in zip(ids, targets, strict=True)]
        self.steps = 0

    def run(self) -> float:
        xs, ts = self.blocks[self.steps % len(self.blocks)]
        self.steps += 1
        return take_step(self.model, self.optimizer, xs, ts, max_grad=5.0)


class Answering(Training):
    """Steps of an encoder with a decoder on questions and answers of the same kind of numbers."""

    def __init__(
        self, threads: int, *, model: str, N: int, S: int, T: int, V: int, D: int, H: int
    ) -> None:
        rnnfast.set_num_threads(threads)
        self.model = getattr(rnnfast, model)(V, D, H, rng=0)
        self.optimizer = rnnfast.SGD(problems.LEARNING_RATE)
        ids = problems.token_ids(V, (10, N, S + T + 1))
        self.blocks = [(block[:, :S], block[:, S:]) for block in ids]
        self.steps = 0


class Program:
    """Epochs of a program of the textbook's chapters, the next one in every `run`."""

    program: Any

    def __init__(self, threads: int, *, name: str, **options: Any) -> None:
        rnnfast.set_num_threads(threads)
        np.random.seed(0)
        self.program = getattr(programs, name)(self.common(), **options)

    def common(self) -> Any:
        """What such a program imports."""
        modules = (import_module(f"rnnfast.textbook.{name}") for name in programs.IMPORTED)
        names = {name: thing for module in modules for name, thing in vars(module).items()}
        return SimpleNamespace(**names)

    def run(self) -> list[float]:
        return self.epoch(20)

    def epoch(self, interval: int) -> list[float]:
        """One, which notes a loss every so many steps."""
        with redirect_stdout(StringIO()):
            losses: list[float] = self.program.epoch(interval)
        return losses

    def results(self) -> list[Array]:
        """The losses of all steps of an epoch, and what its evaluation says."""
        return [np.array(self.epoch(1), "f")]


class ProgramWithAttention(Program):
    """The same, whose own attention is that of this package."""

    def common(self) -> Any:
        names = super().common()
        names.TimeAttention = rnnfast.Attention
        return names


class Recipe:
    """`rnnfast train`, an epoch at a time."""

    def __init__(self, threads: int, *, quick: bool) -> None:
        rnnfast.set_num_threads(threads)
        self.settings, model, train, valid = problems.recipe(quick)
        self.trainer = rnnfast.Trainer(
            model, self.settings.new_optimizer(), train, valid, **self.settings.of_trainer
        )
        self.seconds = 0.0

    def train(self) -> tuple[float, float, bool]:
        """Train an epoch; -> seconds so far, epochs, whether it was the last."""
        start, trainer = time.perf_counter(), self.trainer
        trainer.fit(trainer.epoch + 1, verbose=False)
        self.seconds += time.perf_counter() - start
        last = trainer.epoch == self.settings.epochs or trainer.stopped_early
        return self.seconds, trainer.epoch, last

    def loss(self) -> float:
        """Lowest validation loss."""
        return self.trainer.best_loss

    def results(self) -> list[Array]:
        """The loss of validation."""
        sizes = {"batch_size": self.settings.batch, "time_size": self.settings.time}
        loss = rnnfast.evaluate(self.trainer.model, self.trainer.valid_ids, **sizes)
        return [np.array([loss], "f")]


class Generation:
    """Sampling of `length` tokens from a language model."""

    model: Network
    length: int

    def __init__(self, threads: int, *, cell: str, V: int, D: int, H: int, length: int) -> None:
        rnnfast.set_num_threads(threads)
        self.model, self.length = problems.writer(cell, V, D, H), length

    def run(self) -> Ids:
        rng = np.random.default_rng(0)
        return rnnfast.generate(self.model, [0], self.length, rng=rng)

    def results(self) -> list[Array]:
        return [self.run()]


class Embedding:
    """Gradient of an embedding's table."""

    dxs: Array
    layer: TimeEmbedding

    def __init__(self, threads: int, *, V: int, D: int, tokens: int) -> None:
        rnnfast.set_num_threads(threads)
        W, ids, self.dxs = problems.embedding(V, D, tokens)
        self.layer = rnnfast.TimeEmbedding(W)
        self.layer.forward(ids)

    def run(self) -> None:
        self.layer.backward(self.dxs)

    def results(self) -> list[Array]:
        self.run()
        return self.layer.grads


class Affine:
    """An affine layer of few rows, without gradient."""

    ops: Ops = kernels
    x: Array
    layer: Any

    def __init__(self, threads: int, *, N: int, D: int, M: int, tied: bool) -> None:
        rnnfast.set_num_threads(threads)
        self.x, *weights = problems.affine(N, D, M, tied)
        self.layer = rnnfast.TimeAffine(*weights, ops=self.ops)

    def run(self) -> Array:
        out: Array = self.layer.infer(self.x)
        return out

    def results(self) -> list[Array]:
        return [self.run()]


class Dropout:
    """Dropout of half of the numbers, forward and backward. Everybody draws masks of their own."""

    xs: Array
    dout: Array
    layer: Any

    def __init__(self, threads: int, *, shape: Sequence[int]) -> None:
        rnnfast.set_num_threads(threads)
        self.xs, self.dout = problems.dropout(shape)
        self.layer = rnnfast.TimeDropout(0.5, rng=0)

    def run(self) -> list[Array]:
        return [self.layer.forward(self.xs), self.layer.backward(self.dout)]

    def results(self) -> list[Array]:
        """The tenths that are kept, what they are multiplied by, forward and backward, and what
        the gradient of the others is: of each the least and the most."""
        out, dxs = self.run()
        kept = out != 0
        found = (out[kept] / self.xs[kept], dxs[kept] / self.dout[kept], dxs[~kept])
        tenths = round(10 * float(kept.mean()))
        return [np.array([tenths]), np.array([[x.min(), x.max()] for x in found], "f")]


class Attention:
    """Attention of all steps of a decoder, forward and backward."""

    arrays: tuple[Array, Array, Array]
    layer: Any

    def __init__(self, threads: int, *, N: int, S: int, T: int, H: int) -> None:
        rnnfast.set_num_threads(threads)
        self.arrays = problems.attention(N, S, T, H)
        self.layer = rnnfast.Attention()

    def run(self) -> list[Array]:
        enc, dec, dout = self.arrays
        return [self.layer.forward(enc, dec), *self.layer.backward(dout)]

    def results(self) -> list[Array]:
        return self.run()


class Step:
    """One step of a recurrent layer, from given states."""

    ops: Ops = kernels
    x: Array
    states: Array
    layer: Any

    def __init__(self, threads: int, *, cell: str, N: int, D: int, H: int) -> None:
        rnnfast.set_num_threads(threads)
        self.x, weights, self.states = problems.step(cell, N, D, H)
        self.layer = {"rnn": rnnfast.RNN, "lstm": rnnfast.LSTM}[cell](*weights, ops=self.ops)

    def run(self) -> Any:
        return self.layer.forward(self.x, *self.states)

    def results(self) -> list[Array]:
        states = self.run()
        return list(states) if isinstance(states, tuple) else [states]


class Product:
    """A matrix product, by the kernel of the affine layer: it has all threads, and a bias."""

    A: Array
    B: Array
    b: Array

    ops: Ops = kernels

    def __init__(self, threads: int, *, size: int, precision: str | None = None) -> None:
        rnnfast.set_num_threads(threads)
        self.A, self.B = problems.matrices(size)
        self.b, self.precision = np.zeros(size, "f"), precision

    def run(self) -> Array:
        out: Array = self.ops.affine_forward(self.A, self.B, self.b, precision=self.precision)
        return out

    def results(self) -> list[Array]:
        return [self.run()]
