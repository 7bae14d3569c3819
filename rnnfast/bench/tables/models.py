"""Language models and their parts: training, generation, memory."""

from collections.abc import Iterator

from ..duel import Entry, Refused
from . import cases
from .cases import comma, named, training
from .rows import MB, Bench, Peer, Row, table


@table(
    "training",
    "Training step of a language model cell N,T,V,D,H: forward, backward, SGD, float32",
    means={"PyTorch": 2.5, "textbook NumPy": 6.0},
)
def _training(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for case in bench.few(cases.LANGUAGE_MODELS, 3):
            names = ("rnnfast", "torch", "textbook", "numpy")
            ours, *peers = (training(name, case, threads=n) for name in names)
            yield from bench.rows(f"{case[0]} {comma(case[1:])}", ours, [*map(Peer, peers)])


@table(
    "deep",
    "Training step of a language model cell N,T,V,D,H of several layers: forward, backward, SGD, "
    "float32",
)
def _deep(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for case, layers in bench.few(cases.DEEP_MODELS, 1):
            ours, torch = (
                training(name, case, threads=n, layers=layers) for name in ("rnnfast", "torch")
            )
            what = f"{named(case[0], case[1:])}, {layers} layers"
            yield from bench.rows(what, ours, [Peer(torch, 1.0)])


@table(
    "seq2seq",
    "Training step of an encoder with a decoder N,S,T,V,D,H: forward, backward, SGD, float32",
    rate="",
)
def _seq2seq(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for model, sizes in bench.few(cases.ANSWERS, 1):
            ours, numpy = (
                Entry(name, "Answering", {"model": model, **sizes}, n)
                for name in ("rnnfast", "textbook")
            )
            what = f"{model} {comma([*sizes.values()])}"
            yield from bench.rows(what, ours, [Peer(numpy, 3.0)])


@table(
    "generation",
    "Generation of text by a model of one recurrent layer, float32",
    rate="tokens/s",
    averaged=False,
)
def _generation(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for sizes, targets in cases.GENERATION:
            cell, V, D, H, length = sizes.values()
            names = ("torch", "textbook") if cell == "lstm" else ("textbook",)
            ours = Entry("rnnfast", "Generation", sizes, n)
            peers = [Peer(Entry(name, "Generation", sizes, n), targets.get(name)) for name in names]
            what = f"{cell} V{V} D{D} H{H}, {length} tokens"
            yield from bench.rows(what, ours, peers, work=length)


@table("embedding", "Gradient of an embedding's table, float32", rate="", averaged=False)
def _embedding(bench: Bench) -> Iterator[Row]:
    sizes = cases.EMBEDDING
    what = f"V{sizes['V']} D{sizes['D']}, {sizes['tokens']} tokens"
    for n in bench.threads:
        ours, numpy, torch = (
            Entry(name, "Embedding", sizes, n) for name in ("rnnfast", "numpy", "torch")
        )
        yield from bench.rows(what, ours, [Peer(numpy, 3.0), Peer(torch)])


@table(
    "wide-table",
    "Training step (forward, backward, clipping, SGD) of an LSTM model with a large embedding "
    "beside one with a small one: rows, and N,T,V,D,H, float32",
    rate="",
)
def _wide_table(bench: Bench) -> Iterator[Row]:
    sizes = cases.STEP_WITH_TABLE
    large, small = cases.TABLE_ROWS
    for n in bench.threads:
        ours, other = (
            Entry("rnnfast", "WideTable", {"rows": rows, **sizes}, n) for rows in (large, small)
        )
        label = f"rnnfast, {small} rows"
        peer = Peer(other, cases.AT_MOST_15_PERCENT_SLOWER, label, same=False)
        yield from bench.rows(f"{large} rows, {comma([*sizes.values()])}", ours, [peer])


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
    small, large = cases.MEMORY_VOCABULARIES
    for V in (small, large):
        for T in (short, long):
            case = ("lstm", N, T, V, D, H)
            numbers = 4 * N * T * V / MB
            row = Row(comma(case[1:]), 1, "N*T*V numbers", theirs=numbers)
            try:
                row.ours = peaks[T, V] = bench.peak(training("rnnfast", case))
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
