"""Modules of `rnnfast.torch` beside those of `torch.nn`, in one process."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from .. import duel, problems
from ..duel import Entry, Refused
from . import cases
from .cases import comma
from .rows import Bench, Row, table

PEER = "torch.nn"


def beside(
    bench: Bench,
    what: str,
    task: str,
    threads: int,
    target: float | None,
    options: dict[str, Any],
    *,
    mean: str,
    work: float | None = None,
) -> Row:
    """A row of a task in which both take turns."""
    row = Row(what, threads, PEER, target=target, mean=mean, work=work)
    if duel.installed_version("modules") is None:
        return replace(row, note="absent")
    try:
        entry = Entry("modules", task, options | asdict(bench.arena.pace), threads)
        (worker,) = bench.arena.enter(entry)
        ours, theirs, row.ratio = worker.ask("call", name="race")
    except Refused as error:
        return replace(row, note=str(error))
    row.ours, row.theirs = 1e3 * ours, 1e3 * theirs
    return row


def module(
    bench: Bench,
    threads: int,
    cell: str,
    shape: Sequence[int],
    way: str,
    target: float,
    *,
    packed: bool = False,
) -> Row:
    """A row of a module; of the geometric means, those of one thread have targets."""
    of_way = f"{cell} inference" if way == "inference" else cell
    gates = "gru_reset_after" if cell == "gru" else cell  # ours with as many
    return beside(
        bench,
        f"{of_way} {comma(shape)}",
        "Modules",
        threads,
        target,
        {"cell": cell, "shape": shape, "way": way, "packed": packed},
        mean=f"{PEER}, {of_way}{', several threads' * (threads > 1)}",
        work=problems.layer_gflops(gates, shape, way, ragged=packed),
    )


@table(
    "torch",
    "Modules cell N,T,D,H of rnnfast.torch, forward and backward, or inference, and training steps "
    "of a language model (embedding, two layers, linear, Adam), float32, beside torch.nn in the "
    "same process",
    means={f"{PEER}, {cell}": target for cell, target in cases.MODULE_MEANS.items()},
)
def _torch(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for cell in cases.MODULE_MEANS:
            for way in ("both", "inference"):
                for shape in bench.few(cases.MODULE_SHAPES, 1):
                    yield module(bench, n, cell, shape, way, 1.0)
        for sizes, target in bench.few(cases.MODULE_TRAINING, 1):
            what = f"{sizes['cell']} language model " + " ".join(
                f"{letter}{sizes[letter]}" for letter in "NTVH"
            )
            floor = target if n == 1 else 1.0
            yield beside(bench, what, "ModuleTraining", n, floor, sizes, mean="training steps")


@table(
    "packed",
    "Modules cell N,T,D,H of rnnfast.torch on packed sequences, lengths drawn evenly from 1..T, "
    "forward and backward, float32, beside torch.nn in the same process",
    means={f"{PEER}, {cell}": 4.0 for cell in cases.MODULE_MEANS},
)
def _packed(bench: Bench) -> Iterator[Row]:
    shapes = [shape for shape in cases.MODULE_SHAPES[:-1] if shape[0] >= cases.MANY_ROWS]
    for n in bench.threads:
        for cell in cases.MODULE_MEANS:
            for shape in bench.few(shapes, 1):
                yield module(bench, n, cell, shape, "both", 1.0, packed=True)
