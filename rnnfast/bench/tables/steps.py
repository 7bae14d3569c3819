"""Single steps of few rows, which are bound by reading weights."""

from collections.abc import Iterator

from ..duel import Entry
from . import cases
from .rows import Bench, Peer, Row, table

FASTER = "the faster"


@table(
    "few-rows",
    "Single steps of N rows, float32, beside the faster of textbook NumPy and PyTorch: an affine "
    "layer D to M, whose weights are those of an embedding if tied, and recurrent cells D,H",
    rate="",
    means={FASTER: 1.5},
)
def _few_rows(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        # of more threads the fewest rows and the most, where there is something to share
        numbers, steps = (
            (cases.FEW_ROWS, cases.STEPS) if n == 1 else (cases.FEW_ROWS[::3], cases.LARGE_STEPS)
        )
        for N in bench.few(numbers, 1):
            for task, sizes in bench.few(steps, 3):
                names = ("rnnfast", "textbook", "torch")
                ours, *peers = (Entry(name, task, {"N": N, **sizes}, n) for name in names)
                what = f"{name_of(**sizes)}, N={N}"
                # a second thread must be woken first, which takes longer than some of the steps
                target, mean = (0.95, FASTER) if n == 1 else (None, f"{FASTER}, several threads")
                yield from bench.fastest(what, ours, [*map(Peer, peers)], target, mean=mean)


def name_of(D: int, *, M: int = 0, tied: bool = False, cell: str = "", H: int = 0) -> str:
    """What a step of these sizes is called."""
    return f"{cell} {D},{H}" if cell else f"affine {D} to {M}{', tied' * tied}"
