"""Curves of training runs, and attention, as pictures; needs matplotlib, which is an extra."""

import os
from collections.abc import Sequence
from typing import Any

from .._types import Array
from ..archive import write_atomically
from .history import Record


def plot_history(path: str | os.PathLike[str], history: Sequence[Record], unit: str) -> None:
    """Write a PNG of training and validation loss by epoch (`unit` is what a token is).

    Raises ImportError where matplotlib is not installed.
    """
    figure, plot = axes("epoch", f"cross entropy, nats per {unit}", "rnnfast training run")
    valid = [record for record in history if record.valid_loss is not None]
    plot.plot([r.epoch for r in history], [r.train_loss for r in history], label="training")
    plot.plot([r.epoch for r in valid], [r.valid_loss for r in valid], "o-", label="validation")
    plot.legend()
    save(path, figure)


def plot_curve(
    path: str | os.PathLike[str],
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
) -> None:
    """Write a PNG of one curve over numbers that count something; raises ImportError where
    matplotlib is not installed."""
    figure, plot = axes(xlabel, ylabel, title)
    plot.plot(xs, ys, "o-" if len(xs) < 50 else "-")  # a line has no length in one epoch
    plot.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    save(path, figure)


def plot_attention(
    path: str | os.PathLike[str], weights: Array, read: Sequence[str], written: Sequence[str]
) -> None:
    """Write a PNG of attention weights (T, S): a row for each of the T tokens that were written, a
    column for each of the S that were read. Raises ImportError where matplotlib is not installed.
    """
    figure, plot = axes("read", "written", "what the decoder looks at")
    plot.grid(False)
    image = plot.imshow(weights, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    plot.set_xticks(range(len(read)), read)
    plot.set_yticks(range(len(written)), written)
    figure.colorbar(image, label="weight")
    save(path, figure)


def axes(xlabel: str, ylabel: str, title: str) -> tuple[Any, Any]:
    """An empty figure, and its axes."""
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    figure = Figure(figsize=(8, 5), layout="constrained")
    plot = figure.add_subplot(xlabel=xlabel, ylabel=ylabel, title=title)
    plot.grid(alpha=0.3)
    return figure, plot


def save(path: str | os.PathLike[str], figure: Any) -> None:
    """Write a figure as a PNG."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
