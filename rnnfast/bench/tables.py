"""What is measured, and the ratio that is wanted; every ratio is good where it is large.

N batch rows, T time steps, D input size, H hidden size, V vocabulary size.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from ..kernels import engine
from ..threads import available_cpus
from . import problems
from .duel import CONTESTANTS, Arena, Entry, Pace, Refused, busy_neighbours, installed_version

Case: TypeAlias = tuple[str, int, int, int, int, int]
T = TypeVar("T")

SHAPES = [
    (1, 25, 65, 100),
    (10, 5, 100, 100),
    (20, 35, 100, 100),
    (50, 50, 128, 128),
    (20, 35, 650, 650),
    (64, 100, 256, 512),
    (128, 50, 1024, 1024),
]
ODD_SHAPES = [
    (7, 13, 37, 193),
    (1, 100, 1, 1),
    (3, 17, 5, 7),
    (32, 50, 16, 16),
    (256, 20, 100, 100),
    (20, 35, 129, 127),
    (5, 300, 33, 65),
    (13, 40, 257, 300),
]
BUSY_SHAPES = [(20, 35, 100, 100), (50, 50, 128, 128), (20, 35, 650, 650)]
LANGUAGE_MODELS: list[Case] = [  # cell, N, T, V, D, H
    ("rnn", 10, 5, 418, 100, 100),
    ("lstm", 20, 35, 10000, 100, 100),
    ("lstm", 50, 50, 65, 64, 128),
    ("lstm", 64, 50, 65, 64, 512),
    ("lstm", 20, 35, 10000, 650, 650),
]
GENERATION = {"V": 65, "D": 64, "H": 128, "length": 500}
EMBEDDING = {"V": 10000, "D": 650, "tokens": 700}
PRODUCT_SIZE = 2048
MEMORY_VOCABULARIES = (10000, 20000)
LONG_TIMES = [100, 200, 400, 800, 1600]
ROWS = [32, 64, 128, 256]
AVX2 = {
    "rnnfast": {"RNNFAST_CPU": "avx2"},
    "torch": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
AT_MOST_10_PERCENT_SLOWER = 1 / 1.1
NOT_APART = 0.5  # of the speed alone
GFLOPS_OF_20_MS = 4  # of one thread, as fast as a product goes: 200 GF/s
MB = 1e6


@dataclass
class Row:
    """A measurement beside that of a peer. None is what was not, or cannot be, measured."""

    what: str
    threads: int
    peer: str
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    target: float | None = None
    work: float | None = None  # 1e9 floating point operations, or tokens
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none, or no measurement."""
        return None if self.target is None or self.ratio is None else self.ratio >= self.target

    @property
    def rate(self) -> float | None:
        """Work per second of ours, whose time is in milliseconds."""
        return self.work / self.ours * 1e3 if self.work and self.ours else None


Measure: TypeAlias = Callable[["Bench"], Iterator[Row]]


@dataclass
class Table:
    """Rows of one kind; `means` are targets of geometric means, by peer."""

    name: str
    title: str
    measure: Measure
    unit: str = "ms"
    rate: str = "GF/s"
    means: dict[str, float] = field(default_factory=dict)
    averaged: bool = True
    plotted: bool = False

    def mean_rows(self, rows: Sequence[Row]) -> list[Row]:
        """Geometric means of the ratios, for each peer and number of threads."""
        groups: dict[tuple[str, int], list[float]] = {}
        for row in rows:
            if row.ratio is not None:
                groups.setdefault((row.peer, row.threads), []).append(row.ratio)
        return [
            Row(
                "geometric mean",
                threads,
                peer,
                ratio=statistics.geometric_mean(ratios),
                target=self.means.get(peer),
            )
            for (peer, threads), ratios in groups.items()
            if self.averaged and len(ratios) > 1
        ]


TABLES: dict[str, Table] = {}


def table(name: str, title: str, **options: Any) -> Callable[[Measure], Measure]:
    """Enter a function `(run) -> rows` as the table `name`."""

    def enter(measure: Measure) -> Measure:
        TABLES[name] = Table(name, title, measure, **options)
        return measure

    return enter


@dataclass
class Bench:
    """What the tables need to know: their arena, numbers of threads, and whether to hurry."""

    arena: Arena
    threads: Sequence[int]
    quick: bool = False

    def few(self, cases: Sequence[T], count: int) -> Sequence[T]:
        """All cases, or the first few of them in a hurry."""
        return cases[:count] if self.quick else cases

    def rows(
        self,
        what: str,
        ours: Entry,
        peers: Sequence[Entry],
        targets: dict[str, float | None] | None = None,
        *,
        work: float | None = None,
        beside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> list[Row]:
        """Duel of an entry with each peer that is there: a list of rows, one for each peer.

        What fails or computes something else is a row with a note and no times. Where no peer is
        there, the NumPy twin is what results are compared with.
        """
        targets = targets or {}
        here = [peer for peer in peers if installed_version(peer.name)]
        found: dict[str, tuple[float | None, float | None]] = {}
        own: float | None = None
        note = ""
        try:
            judge = [] if here else [Entry("numpy", ours.task, ours.options, ours.threads)]
            workers = self.arena.enter(ours, *here, *judge)
            self.arena.check(workers)
            with beside():
                times, ratios = self.arena.race(workers[: 1 + len(here)])
            own = 1e3 * times[0]
            found = {
                peer.name: (1e3 * time, ratio)
                for peer, time, ratio in zip(here, times[1:], ratios[1:], strict=True)
            }
        except Refused as error:
            note = str(error)
        return [
            Row(
                what,
                ours.threads,
                peer.label,
                own,
                *found.get(peer.name, (None, None)),
                target=targets.get(peer.name),
                work=work,
                note=note or ("" if peer in here else "absent"),
            )
            for peer in peers
        ]

    def scaled(
        self,
        what: str,
        ours: Entry,
        other: Entry,
        label: str,
        factor: float,
        target: float,
        *,
        work: float | None = None,
    ) -> Row:
        """Duel of two entries whose work differs: the ratio of times is multiplied by `factor`.

        Each is compared with the NumPy twin, since their results differ in shape too.
        """
        row = Row(what, ours.threads, label, target=target, work=work)
        twins = [Entry("numpy", e.task, e.options, e.threads) for e in (ours, other)]
        try:
            pair = self.arena.enter(ours, other, *twins)
            self.arena.check(pair[::2])
            self.arena.check(pair[1::2])
            (own, theirs), (_, ratio) = self.arena.race(pair[:2])
            row.ours, row.theirs, row.ratio = 1e3 * own, 1e3 * theirs, factor * ratio
        except Refused as error:
            row.note = str(error)
        return row


def layer(
    name: str,
    cell: str,
    shape: Sequence[int],
    way: str = "both",
    *,
    threads: int = 1,
    dtype: str = "float32",
    environment: dict[str, str] | None = None,
) -> Entry:
    """Entry of a recurrent layer; `way` is "forward" or "both"."""
    options = {"cell": cell, "dtype": dtype, "shape": shape, "way": way}
    return Entry(name, "Layer", options, threads, environment or {})


def training(name: str, case: Case, *, threads: int = 1) -> Entry:
    """Entry of a training step; `case` is one like those of LANGUAGE_MODELS."""
    options = dict(zip(("cell", "N", "T", "V", "D", "H"), case, strict=True))
    return Entry(name, "Training", options, threads)


def comma(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))


def layers(
    bench: Bench,
    cell: str,
    floor: Callable[[int], float | None],
    *,
    way: str = "both",
    dtype: str = "float32",
    environments: dict[str, dict[str, str]] | None = None,
) -> Iterator[Row]:
    """A table of layers against PyTorch; `floor(H)` is what no ratio may be below."""
    for n in bench.threads:
        for shape in bench.few(SHAPES, 3):
            ours, theirs = (
                layer(name, cell, shape, way, threads=n, dtype=dtype, environment=environment)
                for name, environment in (environments or {"rnnfast": {}, "torch": {}}).items()
            )
            yield from bench.rows(
                comma(shape),
                ours,
                [theirs],
                {"torch": floor(shape[-1])},
                work=problems.layer_gflops(cell, shape, way),
            )


def layer_table(
    name: str,
    cell: str,
    mean: float,
    floor: Callable[[int], float],
    *,
    way: str = "both",
    dtype: str = "float32",
) -> None:
    """Enter `layers` as the table `name`; `mean` is the target of the geometric mean."""
    passes = "forward and backward" if way == "both" else "forward only"

    @table(
        name,
        f"{cell.upper()} layer N,T,D,H, {passes}, {dtype}",
        means={"PyTorch": mean},
        plotted=True,
    )
    def measure(bench: Bench) -> Iterator[Row]:
        return layers(bench, cell, floor, way=way, dtype=dtype)


layer_table("lstm", "lstm", 2.0, lambda H: 1.05 if H >= 650 else 1.15)
layer_table("rnn", "rnn", 3.0, lambda H: 1.3)
layer_table("lstm-forward", "lstm", 1.3, lambda H: 1.0, way="forward")
layer_table("float64", "lstm", 1.5, lambda H: 1.0, dtype="float64")


@table(
    "training",
    "Training step of a language model cell N,T,V,D,H: forward, backward, SGD, float32",
    means={"PyTorch": 2.5, "textbook NumPy": 6.0},
)
def _training(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for case in bench.few(LANGUAGE_MODELS, 3):
            names = ("rnnfast", "torch", "textbook", "numpy")
            ours, *peers = (training(name, case, threads=n) for name in names)
            yield from bench.rows(f"{case[0]} {comma(case[1:])}", ours, peers)


@table("generation", "Generation of text, one LSTM layer, float32", rate="tokens/s")
def _generation(bench: Bench) -> Iterator[Row]:
    sizes = f"V{GENERATION['V']} D{GENERATION['D']} H{GENERATION['H']}"
    what = f"{sizes}, {GENERATION['length']} tokens"
    for n in bench.threads:
        ours, theirs = (Entry(name, "Generation", GENERATION, n) for name in ("rnnfast", "torch"))
        yield from bench.rows(what, ours, [theirs], {"torch": 20.0}, work=GENERATION["length"])


@table("embedding", "Gradient of an embedding's table, float32", rate="", averaged=False)
def _embedding(bench: Bench) -> Iterator[Row]:
    sizes = f"V{EMBEDDING['V']} D{EMBEDDING['D']}, {EMBEDDING['tokens']} tokens"
    for n in bench.threads:
        ours, *peers = (
            Entry(name, "Embedding", EMBEDDING, n) for name in ("rnnfast", "numpy", "torch")
        )
        yield from bench.rows(sizes, ours, peers, {"numpy": 3.0})


@table(
    "gemm",
    "Matrix product of the machine, and the part of its rate that LSTM layers N,T,D,H reach "
    "(ratio, forward and backward, against the fastest product of all), float32",
    averaged=False,
)
def _gemm(bench: Bench) -> Iterator[Row]:
    size = 512 if bench.quick else PRODUCT_SIZE
    gflops = 2e-9 * size**3
    for n in bench.threads:
        ours, *peers = (
            Entry(name, "Product", {"size": size}, n) for name in ("rnnfast", "torch", "numpy")
        )
        rows = bench.rows(f"product {comma([size] * 3)}", ours, peers, work=gflops)
        yield from rows
        times = [rows[0].ours, *(row.theirs for row in rows)]
        pairs = zip(times, (ours, *peers), strict=True)
        measured = [(time, entry) for time, entry in pairs if time]
        if not measured:
            continue
        # Our own product may be the fastest: a slow library must not make a layer look good.
        _, fastest = min(measured, key=lambda pair: pair[0])
        for shape in bench.few([shape for shape in SHAPES if shape[-1] >= 512], 1):
            ours = layer("rnnfast", "lstm", shape, threads=n)
            work = problems.layer_gflops("lstm", shape, "both")
            label = f"product, {fastest.label}"
            yield bench.scaled(comma(shape), ours, fastest, label, work / gflops, 0.8, work=work)


@table("threads", "Two threads against one, where there are 20 ms of work", rate="", averaged=False)
def _threads(bench: Bench) -> Iterator[Row]:
    pairs = [
        (
            f"{cell} {comma(shape)}{', forward' * (way == 'forward')}",
            [layer("rnnfast", cell, shape, way, threads=n) for n in (2, 1)],
        )
        for cell, way in (("lstm", "both"), ("lstm", "forward"), ("rnn", "both"))
        for shape in SHAPES
        if problems.layer_gflops(cell, shape, way) >= GFLOPS_OF_20_MS
    ]
    for case in LANGUAGE_MODELS[1:2] + LANGUAGE_MODELS[3:]:
        entries = [training("rnnfast", case, threads=n) for n in (2, 1)]
        pairs.append((f"training {case[0]} {comma(case[1:])}", entries))
    for what, (two, one) in bench.few(pairs, 1) if available_cpus() > 1 else []:
        yield bench.scaled(what, two, one, "rnnfast, 1 thread", 1, 1.8)


@table(
    "linear",
    "Time per step as T grows, and per row as N grows: LSTM N,T,D,H, forward and backward",
    averaged=False,
)
def _linear(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for cases in (
            [(20, T, 100, 100) for T in bench.few(LONG_TIMES, 2)],
            [(N, 35, 100, 100) for N in bench.few(ROWS, 2)],
        ):
            base, gflops = cases[0], problems.layer_gflops("lstm", cases[0], "both")
            for shape in cases[1:]:
                work = problems.layer_gflops("lstm", shape, "both")
                ours, theirs = (layer("rnnfast", "lstm", s, threads=n) for s in (shape, base))
                label = f"rnnfast, {comma(base)}"
                target = AT_MOST_10_PERCENT_SLOWER
                yield bench.scaled(
                    comma(shape), ours, theirs, label, work / gflops, target, work=work
                )


@table("odd", "Layers of odd shapes N,T,D,H, forward and backward, float32: no cliffs")
def _odd(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for cell in ("lstm", "rnn"):
            for shape in bench.few(ODD_SHAPES, 1):
                ours, theirs = (
                    layer(name, cell, shape, threads=n) for name in ("rnnfast", "torch")
                )
                work = problems.layer_gflops(cell, shape, "both")
                what = f"{cell} {comma(shape)}"
                yield from bench.rows(what, ours, [theirs], {"torch": 1.0}, work=work)


@table("busy", "LSTM layer N,T,D,H, forward and backward, beside one busy process per CPU")
def _busy(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for shape in bench.few(BUSY_SHAPES, 1):
            ours, theirs = (layer(name, "lstm", shape, threads=n) for name in ("rnnfast", "torch"))
            yield from bench.rows(
                comma(shape),
                ours,
                [theirs],
                {"torch": 1.0},
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
        for shape in bench.few(BUSY_SHAPES, 1):
            alone = layer("rnnfast", "lstm", shape, threads=n)
            for library in ("numpy", "torch"):
                options = {**alone.options, "library": library}
                ours = Entry("rnnfast", "LayerAfterProduct", options, n)
                label = CONTESTANTS[library][2]
                what = f"{comma(shape)} after {label}"
                if not installed_version(library):
                    yield Row(what, n, label, note="absent")
                    continue
                (row,) = bench.rows(what, ours, [alone], {"rnnfast": NOT_APART})
                row.peer = "rnnfast alone"
                yield row


@table(
    "avx2",
    "LSTM layer N,T,D,H, forward and backward, float32, both limited to AVX2",
    means={"PyTorch": 1.3},
)
def _avx2(bench: Bench) -> Iterator[Row]:
    if engine.CPU_LEVEL in ("avx2", "avx512"):
        yield from layers(bench, "lstm", lambda H: None, environments=AVX2)


@table(
    "memory",
    "Most memory that training steps allocate, beside an array of N*T*V numbers: "
    "LSTM model N,T,V,D,H, float32",
    unit="MB",
    rate="",
    averaged=False,
)
def _memory(bench: Bench) -> Iterator[Row]:
    peaks, (N, D, H) = {}, (20, 32, 32)
    short, long = (35, 70) if bench.quick else (35, 140)
    small, large = MEMORY_VOCABULARIES
    for V in (small, large):
        for T in (short, long):
            case = ("lstm", N, T, V, D, H)
            ours, twin = (training(name, case) for name in ("rnnfast", "numpy"))
            numbers = 4 * N * T * V / MB
            row = Row(comma(case[1:]), 1, "N*T*V numbers", theirs=numbers)
            try:
                workers = bench.arena.enter(ours, twin)
                bench.arena.check(workers)
                # a process that has not made a step yet
                bench.arena.close()
                (worker,) = bench.arena.enter(ours)
                row.ours = peaks[T, V] = worker.ask("call", name="peak") / MB
                row.ratio = numbers / peaks[T, V]
            except Refused as error:
                row.note = str(error)
            yield row
    if len(peaks) == 4:
        # The mixed difference: what grows with N*T alone, or with V alone, falls out of it.
        mixed = peaks[long, large] - peaks[long, small] - peaks[short, large] + peaks[short, small]
        theirs = 4 * N * (long - short) * (large - small) / MB
        ratio = theirs / max(mixed, theirs / 1000)
        yield Row("part that grows with N*T*V", 1, "N*T*V numbers", mixed, theirs, ratio, 50.0)


@table("peers", "Other peers: layers N,T,D,H, forward and backward, float32")
def _peers(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for cell in ("lstm", "rnn"):
            for shape in bench.few(SHAPES[:4], 1):
                ours, *peers = (
                    layer(name, cell, shape, threads=n) for name in ("rnnfast", "jax", "numpy")
                )
                work = problems.layer_gflops(cell, shape, "both")
                yield from bench.rows(f"{cell} {comma(shape)}", ours, peers, work=work)


def measure(
    names: Sequence[str], *, quick: bool = False, threads: Sequence[int] | None = None
) -> Iterator[tuple[Table, Row]]:
    """Yield each table named, and its rows one by one: pairs (table, row)."""
    cpus = available_cpus()
    threads = threads or ([1] if quick else sorted({1, min(2, cpus)}))
    pace = Pace(turn=0.03, seconds=0.2, rounds=3, most_seconds=3) if quick else Pace()
    for name in names:
        with Arena(pace) as arena:
            rows = []
            for row in TABLES[name].measure(Bench(arena, threads, quick)):
                rows.append(row)
                yield TABLES[name], row
            for row in TABLES[name].mean_rows(rows):
                yield TABLES[name], row


def optional_versions() -> dict[str, str | None]:
    """{title: version or None} of the peers that are not installed with this package."""
    return {
        title: installed_version(name)
        for name, (_, library, title) in CONTESTANTS.items()
        if library not in ("rnnfast", "numpy")
    }
