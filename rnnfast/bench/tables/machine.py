"""What the machine gives: its products, its CPUs, and who else uses them."""

from collections.abc import Iterator

from ...threads import available_cpus
from .. import duel, problems
from ..duel import CONTESTANTS, Entry, busy_neighbours
from . import cases
from .cases import AT_MOST_10_PERCENT_SLOWER, GFLOPS_OF_20_MS, NOT_APART, comma, layer, training
from .rows import Bench, Peer, Row, table


@table(
    "gemm",
    "Matrix product of the machine, and the part of its rate that LSTM layers N,T,D,H reach "
    "(ratio, forward and backward, against the fastest product of all), float32",
    averaged=False,
)
def _gemm(bench: Bench) -> Iterator[Row]:
    size = 512 if bench.quick else cases.PRODUCT_SIZE
    gflops = 2e-9 * size**3
    for n in bench.threads:
        ours, *peers = (
            Entry(name, "Product", {"size": size}, n) for name in ("rnnfast", "torch", "numpy")
        )
        rows = bench.rows(f"product {comma([size] * 3)}", ours, [*map(Peer, peers)], work=gflops)
        yield from rows
        times = [rows[0].ours, *(row.theirs for row in rows)]
        pairs = zip(times, (ours, *peers), strict=True)
        measured = [(time, entry) for time, entry in pairs if time]
        if not measured:
            continue
        # Our own product may be the fastest: a slow library must not make a layer look good.
        _, fastest = min(measured, key=lambda pair: pair[0])
        for shape in bench.few([shape for shape in cases.SHAPES if shape[-1] >= 512], 1):
            ours = layer("rnnfast", "lstm", shape, threads=n)
            work = problems.layer_gflops("lstm", shape, "both")
            peer = Peer(fastest, 0.8, f"product, {fastest.label}", work / gflops, same=False)
            yield from bench.rows(comma(shape), ours, [peer], work=work)


@table("threads", "Two threads against one, where there are 20 ms of work", rate="", averaged=False)
def _threads(bench: Bench) -> Iterator[Row]:
    pairs = [
        (
            f"{cell} {comma(shape)}{', forward' * (way == 'forward')}",
            [layer("rnnfast", cell, shape, way, threads=n) for n in (2, 1)],
        )
        for cell, way in (("lstm", "both"), ("lstm", "forward"), ("rnn", "both"))
        for shape in cases.SHAPES
        if problems.layer_gflops(cell, shape, way) >= GFLOPS_OF_20_MS
    ]
    for case in cases.LANGUAGE_MODELS[1:2] + cases.LANGUAGE_MODELS[3:]:
        entries = [training("rnnfast", case, threads=n) for n in (2, 1)]
        pairs.append((f"training {case[0]} {comma(case[1:])}", entries))
    for what, (two, one) in bench.few(pairs, 1) if available_cpus() > 1 else []:
        yield from bench.rows(what, two, [Peer(one, 1.8, "rnnfast, 1 thread", same=False)])


@table(
    "linear",
    "Time per step as T grows, and per row as N grows: LSTM N,T,D,H, forward and backward",
    averaged=False,
)
def _linear(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for shapes in (
            [(20, T, 100, 100) for T in bench.few(cases.LONG_TIMES, 2)],
            [(N, 35, 100, 100) for N in bench.few(cases.ROWS, 2)],
        ):
            base, gflops = shapes[0], problems.layer_gflops("lstm", shapes[0], "both")
            for shape in shapes[1:]:
                work = problems.layer_gflops("lstm", shape, "both")
                ours, theirs = (layer("rnnfast", "lstm", s, threads=n) for s in (shape, base))
                label, factor = f"rnnfast, {comma(base)}", work / gflops
                peer = Peer(theirs, AT_MOST_10_PERCENT_SLOWER, label, factor, same=False)
                yield from bench.rows(comma(shape), ours, [peer], work=work)


@table("busy", "LSTM layer N,T,D,H, forward and backward, beside one busy process per CPU")
def _busy(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for shape in bench.few(cases.MIDDLE_SHAPES, 1):
            ours, theirs = (layer(name, "lstm", shape, threads=n) for name in ("rnnfast", "torch"))
            yield from bench.rows(
                comma(shape),
                ours,
                [Peer(theirs, 1.0)],
                work=problems.layer_gflops("lstm", shape, "both"),
                beside=lambda: busy_neighbours(available_cpus()),
            )


@table(
    "pools",
    "LSTM layer N,T,D,H, forward and backward, called right after a matrix product of another "
    "library's threads in the same process, against the layer alone",
    averaged=False,
)
def _pools(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for shape in bench.few(cases.MIDDLE_SHAPES, 1):
            alone = layer("rnnfast", "lstm", shape, threads=n)
            for library in ("numpy", "torch"):
                options = {**alone.options, "library": library}
                ours = Entry("rnnfast", "LayerAfterProduct", options, n)
                label = CONTESTANTS[library][2]
                what = f"{comma(shape)} after {label}"
                if not duel.installed_version(library):
                    yield Row(what, n, label, note="absent")
                    continue
                yield from bench.rows(what, ours, [Peer(alone, NOT_APART, "rnnfast alone")])
