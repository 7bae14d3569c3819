"""Products of operands that are rounded to bf16, beside those in float32, and beside PyTorch's."""

from collections.abc import Iterator

from ...kernels import engine
from .. import problems
from ..duel import Entry
from . import cases
from .cases import comma, layer, named, training
from .rows import Bench, Peer, Row, table

ROUNDED = 0.05
"""Tolerance of results, relative to the largest number of an array, where operands or all numbers
of one contestant are rounded to 8 bits, and those of another are not."""


def wanted(target: float) -> float | None:
    """A target, where the processor multiplies bf16."""
    return target if engine.BF16 else None


@table(
    "bf16",
    'Products in bf16 (precision="bfloat16"): layers cell N,T,D,H, forward and backward, training '
    "steps of language models cell N,T,V,D,H, and the part of a product's rate that they reach",
    means={"PyTorch, float32": 2.2},
)
def _bf16(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for cell in ("lstm", "gru_reset_after", "rnn"):
            for shape in bench.few(cases.SHAPES, 1):
                ours = layer("rnnfast", cell, shape, threads=n, precision="bfloat16")
                exact = layer("rnnfast", cell, shape, threads=n)
                target = 1.7 if shape[-1] >= 512 else 1.35 if shape == (50, 50, 128, 128) else 1.0
                yield from bench.rows(
                    named(cell, shape),
                    ours,
                    [Peer(exact, wanted(target), f"rnnfast, float32, {cell.partition('_')[0]}")],
                    work=problems.layer_gflops(cell, shape, "both"),
                    tolerance=ROUNDED,
                )
        for case in bench.few(cases.LANGUAGE_MODELS, 1):
            yield from _training(bench, case, n)
        yield from _share(bench, n)


def _training(bench: Bench, case: cases.Case, threads: int) -> Iterator[Row]:
    large = case in cases.LANGUAGE_MODELS[-2:]
    ours = training("rnnfast", case, threads=threads, precision="bfloat16")
    exact, torch, *roundings = (
        training(name, case, threads=threads, precision=precision)
        for name, precision in (
            ("rnnfast", None),
            ("torch", None),
            ("torch", "autocast"),
            ("torch", "weights"),
        )
    )
    what = f"training {case[0]} {comma(case[1:])}"
    peers = [
        Peer(exact, wanted(1.6 if large else 1.0), "rnnfast, float32, training"),
        Peer(torch, None, "PyTorch, float32" if large else "PyTorch, float32, small"),
    ]
    yield from bench.rows(what, ours, peers, tolerance=ROUNDED)
    if large:
        labels = ("PyTorch, autocast", "PyTorch, bf16 weights")
        named_peers = [Peer(e, None, label) for e, label in zip(roundings, labels, strict=True)]
        yield from bench.fastest(
            *(what, ours, named_peers, wanted(1.2)), mean="PyTorch, bf16", tolerance=ROUNDED
        )


def _share(bench: Bench, threads: int) -> Iterator[Row]:
    """Part of the rate of the machine's fastest product in bf16."""
    size = 512 if bench.quick else cases.PRODUCT_SIZE
    gflops = 2e-9 * size**3
    options = {"size": size, "precision": "bfloat16"}
    ours, torch = (Entry(name, "Product", options, threads) for name in ("rnnfast", "torch"))
    (product,) = bench.rows(
        f"product {comma([size] * 3)}",
        ours,
        [Peer(torch, None, "PyTorch's product in bf16")],
        work=gflops,
        tolerance=ROUNDED,
    )
    yield product
    if product.ratio is None:
        return
    fastest = ours if product.ratio > 1 else torch
    for shape in bench.few([shape for shape in cases.SHAPES if shape[-1] >= 512], 1):
        entry = layer("rnnfast", "lstm", shape, threads=threads, precision="bfloat16")
        work = problems.layer_gflops("lstm", shape, "both")
        label = f"fastest product in bf16, {fastest.label}"
        peer = Peer(fastest, wanted(0.8), label, work / gflops, same=False)
        yield from bench.rows(
            f"part of it: {named('lstm', shape)}", entry, [peer], work=work, tolerance=ROUNDED
        )
