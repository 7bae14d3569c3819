"""Modules of `rnnfast.torch` beside those of `torch.nn`: in one process, which they share in the
programs that they are for. They take turns there."""

import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch.nn.utils import rnn

from ..torch import accelerate
from . import problems

MODULES = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


class Beside:
    """A program with modules of ours, and the same with those of torch.nn."""

    programs: tuple[Callable[[], Any], Callable[[], Any]]
    turn: float
    seconds: float
    rounds: int
    most_seconds: float

    def race(self) -> tuple[float, float, float]:
        """Median seconds of ours and of theirs, and median of their ratio, turn by turn; after the
        results have been compared."""
        for one, other in zip(*(program() for program in self.programs), strict=True):
            # numbers near 0 are differences of sums, whose rounding is that of larger ones
            largest = float(other.abs().max())
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * max(largest, 1e-3))
        turns: list[list[float]] = []
        start = time.perf_counter()
        while (
            len(turns) < 2
            or (passed := time.perf_counter() - start) < self.seconds
            or (len(turns) < self.rounds and passed < self.most_seconds)
        ):
            turns.append([self._turn(program) for program in self.programs])
        ours, theirs = map(statistics.median, zip(*turns, strict=True))
        return ours, theirs, statistics.median(b / a for a, b in turns)

    def _turn(self, program: Callable[[], Any]) -> float:
        """Median seconds of a call, after one that does not count."""
        program()
        times: list[float] = []
        end = time.perf_counter() + self.turn
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            program()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


class Modules(Beside):
    """A recurrent module: forward, or forward and backward without the gradient of its input."""

    def __init__(
        self,
        threads: int,
        *,
        cell: str,
        shape: Sequence[int],
        way: str,
        packed: bool = False,
        **pace: Any,
    ) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        vars(self).update(pace)
        N, T, D, H = shape
        theirs = MODULES[cell](D, H)
        x: Any = torch.randn(T, N, D)
        if packed:
            lengths = torch.from_numpy(np.sort(problems.lengths(shape))[::-1].copy())
            x = rnn.pack_padded_sequence(x[: int(lengths[0])], lengths)
        modules = accelerate(deepcopy(theirs)), theirs
        run = getattr(self, way)
        self.programs = tuple(lambda m=module: run(m, x) for module in modules)  # type: ignore[assignment]

    def both(self, module: Any, x: Any) -> list[Any]:
        module.zero_grad()
        out, _ = module(x)
        if isinstance(out, rnn.PackedSequence):
            out = out.data
        out.backward(torch.ones_like(out))
        return [out.detach(), *(parameter.grad for parameter in module.parameters())]

    def inference(self, module: Any, x: Any) -> list[Any]:
        with torch.inference_mode():
            out, _ = module(x)
        return [out if isinstance(out, torch.Tensor) else out.data]


class Model(torch.nn.Module):  # type: ignore[misc]
    """Embedding, two recurrent layers, linear: the mean loss of a block."""

    def __init__(self, cell: str, V: int, H: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(V, H)
        self.recurrent = MODULES[cell](H, H, num_layers=2)
        self.linear = torch.nn.Linear(H, V)

    def forward(self, ids: Any, targets: Any) -> Any:
        hs, _ = self.recurrent(self.embedding(ids))
        return torch.nn.functional.cross_entropy(self.linear(hs).flatten(0, 1), targets.flatten())


class ModuleTraining(Beside):
    """Steps of a language model with Adam."""

    def __init__(
        self, threads: int, *, cell: str, N: int, T: int, V: int, H: int, **pace: Any
    ) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        vars(self).update(pace)
        theirs = Model(cell, V, H)
        models = accelerate(deepcopy(theirs)), theirs
        blocks = [
            [torch.from_numpy(ids.T.copy()) for ids in pair] for pair in problems.blocks(N, T, V)
        ]
        self.programs = tuple(self._program(model, blocks) for model in models)  # type: ignore[assignment]

    def _program(self, model: Model, blocks: Sequence[Any]) -> Callable[[], list[Any]]:
        optimizer, steps = torch.optim.Adam(model.parameters()), 0

        def step() -> list[Any]:
            nonlocal steps
            steps += 1
            optimizer.zero_grad()
            loss = model(*blocks[steps % len(blocks)])
            loss.backward()
            optimizer.step()
            return [loss.detach()]

        return step
