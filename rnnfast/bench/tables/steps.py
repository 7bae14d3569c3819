"""Single steps of few rows, which are bound by reading weights."""

from collections.abc import Iterator

from ..duel import Entry
from . import cases
from .rows import Bench, Peer, Row, table


@table(
    "few-rows",
    "Single steps of N rows, float32, beside the faster of textbook NumPy and PyTorch: an affine "
    "layer D to M, whose weights are those of an embedding if tied, and recurrent cells D,H",
    rate="",
    means={"the faster": 1.5},
)
def _few_rows(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        # of more threads, the fewest rows and the most
        for N in bench.few(cases.FEW_ROWS if n == 1 else cases.FEW_ROWS[::3], 1):
            for task, sizes in bench.few(cases.STEPS, 3):
                names = ("rnnfast", "textbook", "torch")
                ours, *peers = (Entry(name, task, {"N": N, **sizes}, n) for name in names)
                what = f"{name_of(**sizes)}, N={N}"
                target = 0.95
                yield from bench.fastest(what, ours, [*map(Peer, peers)], target, mean="the faster")


def name_of(D: int, *, M: int = 0, tied: bool = False, cell: str = "", H: int = 0) -> str:
    """What a step of these sizes is called."""
    return f"{cell} {D},{H}" if cell else f"affine {D} to {M}{', tied' * tied}"
