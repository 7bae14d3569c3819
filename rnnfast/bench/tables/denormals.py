"""Numbers below the smallest normal one, with which a processor may take long."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..duel import Entry
from . import cases
from .cases import AT_MOST_10_PERCENT_SLOWER, comma, layer, named
from .rows import Bench, Peer, Row, table


@table(
    "denormals",
    "Where numbers are denormal, or become so: layers cell N,T,D,H forward and backward, steps of "
    "optimizers with small gradients, losses with small probabilities, float32; beside the same "
    "with ordinary numbers",
    rate="",
)
def _denormals(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for cell, shape, faint in bench.few(cases.FAINT_LAYERS, 1):
            entry = replace(layer("rnnfast", cell, shape, threads=n), task="FaintLayer")
            yield from _rows(bench, f"{named(cell, shape)} {faint}", entry, faint=(faint, ""))
        for optimizer, size in bench.few(cases.FAINT_UPDATES, 1):
            options: dict[str, Any] = {"optimizer": optimizer, "shape": cases.UPDATE_SHAPE}
            entry = Entry("rnnfast", "Update", options, n)
            what = f"{optimizer} {comma(cases.UPDATE_SHAPE)} gradients {size:g}"
            yield from _rows(bench, what, entry, size=(size, 1.0))
        for loss in bench.few(cases.FAINT_LOSSES, 1):
            entry = Entry("rnnfast", "Loss", {"loss": loss, **cases.LOSS_SIZES}, n)
            what = f"{loss} {comma([*cases.LOSS_SIZES.values()])}"
            yield from _rows(bench, what, entry, lower=(cases.LOWER, 0.0))


def _rows(bench: Bench, what: str, entry: Entry, **option: tuple[Any, Any]) -> list[Row]:
    """An entry whose option is the first of two, beside itself with the second."""
    ours, other = (
        replace(entry, options=entry.options | {name: values[k] for name, values in option.items()})
        for k in range(2)
    )
    peer = Peer(other, AT_MOST_10_PERCENT_SLOWER, "rnnfast, ordinary numbers", same=False)
    return bench.rows(what, ours, [peer])
