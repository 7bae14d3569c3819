"""The curve of a training run as a picture; needs matplotlib, which is an extra."""

from .checkpoint import write_atomically


def plot_history(path, history, unit):
    """Write a PNG of training and validation loss by epoch (`unit` is what a token is).

    Raises ImportError where matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="epoch", ylabel=f"cross entropy, nats per {unit}", title="rnnfast training run"
    )
    valid = [record for record in history if record.valid_loss is not None]
    axes.plot([r.epoch for r in history], [r.train_loss for r in history], label="training")
    axes.plot([r.epoch for r in valid], [r.valid_loss for r in valid], "o-", label="validation")
    axes.grid(alpha=0.3)
    axes.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
