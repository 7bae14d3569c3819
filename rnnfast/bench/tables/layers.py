"""Recurrent layers beside those of peers."""

from collections.abc import Callable, Iterator

from ...kernels import engine
from .. import problems
from ..duel import Entry, Refused
from . import cases
from .cases import ALL_BUT_THE_LARGEST, AT_MOST_5_PERCENT_SLOWER, EVERY_OTHER, comma, layer, named
from .rows import MB, Bench, Peer, Row, table

WAYS = {
    "both": "forward and backward",
    "forward": "forward only",
    "inference": "forward with need_gradient=False, beside torch.inference_mode",
}


def layers(
    bench: Bench,
    cell: str,
    floor: Callable[[int], float | None],
    *,
    way: str = "both",
    dtype: str = "float32",
    shapes: slice = slice(None),
    environments: dict[str, dict[str, str]] | None = None,
) -> Iterator[Row]:
    """A table of layers against PyTorch; `floor(H)` is what no ratio may be below."""
    for n in bench.threads:
        for shape in bench.few(cases.SHAPES[shapes], 1 if way == "inference" else 3):
            ours, theirs = (
                layer(name, cell, shape, way, threads=n, dtype=dtype, environment=environment)
                for name, environment in (environments or {"rnnfast": {}, "torch": {}}).items()
            )
            yield from bench.rows(
                comma(shape),
                ours,
                [Peer(theirs, floor(shape[-1]))],
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
    shapes: slice = slice(None),
) -> None:
    """Enter `layers` as the table `name`; `mean` is the target of the geometric mean."""
    kind, _, form = cell.partition("_")
    title = f"{kind.upper()} layer{f' ({form})' * bool(form)} N,T,D,H, {WAYS[way]}, {dtype}"

    @table(name, title, means={"PyTorch": mean}, plotted=way != "inference")
    def measure(bench: Bench) -> Iterator[Row]:
        return layers(bench, cell, floor, way=way, dtype=dtype, shapes=shapes)


layer_table("lstm", "lstm", 2.0, lambda H: 1.05 if H >= 650 else 1.15)
layer_table("rnn", "rnn", 3.0, lambda H: 1.3)
layer_table("gru", "gru_reset_after", 3.0, lambda H: 1.3)
layer_table("lstm-forward", "lstm", 1.3, lambda H: 1.0, way="forward")
layer_table("float64", "lstm", 1.5, lambda H: 1.0, dtype="float64")
layer_table("lstm-inference", "lstm", 1.4, lambda H: 1.0, way="inference")
layer_table(
    "gru-inference", "gru_reset_after", 1.4, lambda H: 1.0, way="inference", shapes=EVERY_OTHER
)
layer_table("rnn-inference", "rnn", 1.4, lambda H: 1.0, way="inference", shapes=EVERY_OTHER)


@table(
    "gru-textbook",
    "GRU layer N,T,D,H in the textbook's form, forward and backward, float32, against the form "
    "with reset_after",
)
def _gru_textbook(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for shape in bench.few(cases.SHAPES[ALL_BUT_THE_LARGEST], 1):
            ours, other = (
                layer("rnnfast", cell, shape, threads=n) for cell in ("gru", "gru_reset_after")
            )
            peer = Peer(other, 1 / 1.25, "rnnfast, reset_after", same=False)
            work = problems.layer_gflops("gru", shape, "both")
            yield from bench.rows(comma(shape), ours, [peer], work=work)


@table("relu", "RNN layer N,T,D,H of relu, forward and backward, float32, against tanh")
def _relu(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for shape in bench.few(cases.SHAPES[ALL_BUT_THE_LARGEST], 1):
            ours, torch = (
                layer(name, "rnn_relu", shape, threads=n) for name in ("rnnfast", "torch")
            )
            tanh = layer("rnnfast", "rnn", shape, threads=n)
            peers = [
                Peer(tanh, AT_MOST_5_PERCENT_SLOWER, "rnnfast, tanh", same=False),
                Peer(torch),
            ]
            work = problems.layer_gflops("rnn_relu", shape, "both")
            yield from bench.rows(comma(shape), ours, peers, work=work)


@table(
    "inference-memory",
    "Growth, as T grows, of the most memory that a layer cell N,T,D,H allocates with "
    "need_gradient=False, beside that of its input and output, float32",
    unit="MB",
    rate="",
    averaged=False,
)
def _inference_memory(bench: Bench) -> Iterator[Row]:
    short, *_, long = bench.few(cases.LONG_TIMES, 2)
    N, D, H = 20, 100, 100
    for cell in ("lstm", "gru_reset_after", "rnn"):
        what = named(cell, (N, f"{short} to {long}", D, H))
        theirs = 4 * N * (long - short) * (D + H) / MB
        row = Row(what, 1, "input and output", theirs=theirs, target=1.0)
        try:
            entries = (layer("rnnfast", cell, (N, T, D, H), "inference") for T in (short, long))
            before, after = map(bench.peak, entries)
            row.ours = after - before
            row.ratio = theirs / max(row.ours, theirs / 1000)
        except Refused as error:
            row.note = str(error)
        yield row


@table("dropout", "Dropout of half of N,T,D numbers, forward and backward, float32", rate="")
def _dropout(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for shape in bench.few(cases.DROPOUTS, 1):
            names = ("rnnfast", "textbook", "torch")
            ours, numpy, torch = (Entry(name, "Dropout", {"shape": shape}, n) for name in names)
            yield from bench.rows(comma(shape), ours, [Peer(numpy, 2.0), Peer(torch, 1.0)])


@table(
    "attention",
    "Attention of T steps of a decoder to S of an encoder, N,S,T,H, forward and backward, float32; "
    "the textbook's has a loop over T",
    rate="",
)
def _attention(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for shape in bench.few(cases.ATTENTIONS, 1):
            sizes = dict(zip("NSTH", shape, strict=True))
            names = ("rnnfast", "textbook", "torch")
            ours, numpy, torch = (Entry(name, "Attention", sizes, n) for name in names)
            yield from bench.rows(comma(shape), ours, [Peer(numpy, 5.0), Peer(torch, 1.0)])


@table("odd", "Layers of odd shapes N,T,D,H, forward and backward, float32: no cliffs")
def _odd(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for cell in ("lstm", "rnn", "gru_reset_after"):
            for shape in bench.few(cases.ODD_SHAPES, 1):
                ours, theirs = (
                    layer(name, cell, shape, threads=n) for name in ("rnnfast", "torch")
                )
                work = problems.layer_gflops(cell, shape, "both")
                yield from bench.rows(named(cell, shape), ours, [Peer(theirs, 1.0)], work=work)


@table(
    "avx2",
    "LSTM layer N,T,D,H, forward and backward, float32, both limited to AVX2",
    means={"PyTorch": 1.3},
)
def _avx2(bench: Bench) -> Iterator[Row]:
    if engine.CPU_LEVEL != "baseline":
        yield from layers(bench, "lstm", lambda H: None, environments=cases.AVX2)


@table("peers", "Other peers: layers N,T,D,H, forward and backward, float32")
def _peers(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for cell in ("lstm", "rnn"):
            for shape in bench.few(cases.SHAPES[:4], 1):
                ours, *peers = (
                    layer(name, cell, shape, threads=n) for name in ("rnnfast", "jax", "numpy")
                )
                work = problems.layer_gflops(cell, shape, "both")
                yield from bench.rows(named(cell, shape), ours, [*map(Peer, peers)], work=work)
