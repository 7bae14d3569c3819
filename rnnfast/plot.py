"""Curves of training runs as pictures; needs matplotlib, which is an extra."""

from .checkpoint import write_atomically


def plot_history(path, history, unit):
    """Write a PNG of training and validation loss by epoch (`unit` is what a token is).

    Raises ImportError where matplotlib is not installed.
    """
    figure, axes = _axes("epoch", f"cross entropy, nats per {unit}", "rnnfast training run")
    valid = [record for record in history if record.valid_loss is not None]
    axes.plot([r.epoch for r in history], [r.train_loss for r in history], label="training")
    axes.plot([r.epoch for r in valid], [r.valid_loss for r in valid], "o-", label="validation")
    axes.legend()
    _save(path, figure)


def plot_curve(path, xs, ys, *, xlabel, ylabel, title):
    """Write a PNG of one curve; raises ImportError where matplotlib is not installed."""
    figure, axes = _axes(xlabel, ylabel, title)
    axes.plot(xs, ys)
    _save(path, figure)


def _axes(xlabel, ylabel, title):
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(path, figure):
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
