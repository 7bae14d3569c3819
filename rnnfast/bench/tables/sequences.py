"""Layers whose sequences, or whose steps, are not plain: beside themselves, plain, and PyTorch."""

from collections.abc import Iterator, Sequence
from typing import Any

from .. import problems
from . import cases
from .cases import GFLOPS_OF_1_MS, layer, named
from .rows import Bench, Peer, Row, table


def rows(
    bench: Bench,
    threads: int,
    cell: str,
    shape: Sequence[int],
    plain: tuple[str, float],
    *others: Peer,
    torch: float | None = None,
    **options: Any,
) -> list[Row]:
    """A layer with options, beside ours without them, of which `plain` is the label and the target,
    and beside that of PyTorch with them, of which `torch` is the target."""
    ours, theirs = (
        layer(name, cell, shape, threads=threads, **options) for name in ("rnnfast", "torch")
    )
    label, target = plain
    without = Peer(layer("rnnfast", cell, shape, threads=threads), target, label, same=False)
    work = problems.layer_gflops(cell, shape, "both", **options)
    return bench.rows(named(cell, shape), ours, [without, Peer(theirs, torch), *others], work=work)


@table(
    "lengths",
    "Layers cell N,T,D,H with lengths drawn evenly from 1..T, forward and backward, float32; "
    "PyTorch packs its input and unpacks its output",
)
def _lengths(bench: Bench) -> Iterator[Row]:
    many = [(cell, shape) for cell, shape in cases.SEQUENCES if shape[0] >= cases.MANY_ROWS]
    for n in bench.threads:
        for case in bench.few(many, 1):
            full = "rnnfast, full length", 1 / 0.6
            yield from rows(bench, n, *case, full, torch=3.0, ragged=True)


@table("bidirectional", "Layers cell N,T,D,H in both directions, forward and backward, float32")
def _bidirectional(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for cell, shape in bench.few(cases.SEQUENCES, 1):
            others = []
            if n == 2:
                alone = layer("rnnfast", cell, shape, directions=2)
                enough = problems.layer_gflops(cell, shape, "both") >= GFLOPS_OF_1_MS
                others = [Peer(alone, 1.8 if enough else None, "rnnfast, 1 thread")]
            one = "rnnfast, one direction", 1 / 2.05
            yield from rows(bench, n, cell, shape, one, *others, directions=2)


@table("stacks", "Two layers cell N,T,D,H, forward and backward, float32")
def _stacks(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for cell, (N, T, _, H) in bench.few(cases.SEQUENCES, 1):
            yield from rows(bench, n, cell, (N, T, H, H), ("rnnfast, one layer", 1 / 2.0), layers=2)


@table(
    "regularisation",
    "Layers cell N,T,D,H in training, with masks of a rate of 0.25 drawn in every call, forward "
    "and backward, float32",
)
def _regularisation(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for name in cases.REGULARISATIONS:
            masks: dict[str, Any] = {name: 0.25}
            for cell, shape in bench.few(cases.REGULARISED, 1):
                plain = layer("rnnfast", cell, shape, threads=n)
                ours = layer("rnnfast", cell, shape, threads=n, **masks)
                peer = Peer(plain, 1 / 1.15, "rnnfast, plain", same=False)
                what = f"{named(cell, shape)} {name.replace('_', ' ')}"
                yield from bench.rows(what, ours, [peer])
