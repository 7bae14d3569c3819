"""Notebook 002: the textbook's training loop over a file of words.

Letters: N batch rows (lanes), T time steps, V vocabulary size.
"""

from collections.abc import Callable
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from .._checks import as_count, as_ids
from .._types import ArrayLike
from ..errors import InputError
from ..models import SimpleRnnlm
from ..text import Vocabulary, load_text
from ..training.optimizers import SGD
from ..training.plot import plot_curve
from ..training.steps import take_step
from ..training.trainer import perplexity


class WordRun(NamedTuple):
    """A trained model, its vocabulary, and its training perplexity by epoch.

    `model.save(path)` keeps the model, which is a `SimpleRnnlm` unless another was asked for.

    Examples
    --------
    >>> import numpy as np, pathlib, rnnfast, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "words.txt")
    ...     _ = path.write_text("the cat saw the dog and the dog saw the cat and ran\\n" * 10)
    ...     run = rnnfast.train_word_file(
    ...         path, batch_size=4, hidden_size=20, wordvec_size=20, epochs=30,
    ...         rng=np.random.RandomState(0))
    >>> len(run.vocabulary), len(run.perplexities)
    (7, 30)
    >>> run.perplexities[0] > 5, run.perplexities[-1] < 1.5
    (True, True)
    """

    model: Any
    vocabulary: Vocabulary
    perplexities: list[float]

    def plot(self, path: str | PathLike[str]) -> None:
        """Write the perplexity by epoch as a PNG; needs matplotlib."""
        epochs = range(1, len(self.perplexities) + 1)
        plot_curve(path, epochs, self.perplexities, xlabel="epoch", ylabel="perplexity",
                   title="training perplexity")  # fmt: skip


def train_word_file(
    path: str | PathLike[str],
    *,
    corpus_size: int = 1000,
    batch_size: int = 10,
    wordvec_size: int = 100,
    hidden_size: int = 100,
    time_size: int = 5,
    lr: float = 0.1,
    epochs: int = 100,
    on_epoch: Callable[[int, float], object] | None = None,
    model_class: Callable[..., Any] = SimpleRnnlm,
    **options: Any,
) -> WordRun:
    """Train a new language model on the first words of a UTF-8 text file; defaults as in the book.

    Words are what stands between white space, with `<eos>` at the end of each line; their ids are
    given in the order of first use.

    Parameters
    ----------
    path : path of the text
    corpus_size : int, keyword-only (like all that follow)
        How many words of the text to use, at most.
    batch_size, wordvec_size, hidden_size, time_size : N, D, H, T
    lr : learning rate of SGD
    epochs, on_epoch : see `train_words`
    model_class, options : `SimpleRnnlm` or `Rnnlm`, and its keyword arguments
        Such as `rng`, and `ops`, which the training uses too.

    Returns
    -------
    WordRun

    Raises
    ------
    InputError
        For a file that is missing, empty or not text, or that has too few words.
    TypeError, ValueError, TrainingDiverged
    """
    count = as_count("corpus_size", corpus_size)
    text = load_text(path)
    vocabulary = Vocabulary.from_text(text, "word")
    ids = vocabulary.encode(text)[:count]
    if not len(ids):
        raise InputError(f"text file {path} has no words; give a file with text in it")
    vocabulary = Vocabulary(vocabulary.tokens[: ids.max() + 1], "word")
    model = model_class(len(vocabulary), wordvec_size, hidden_size, **options)
    perplexities = train_words(
        model, SGD(lr, ops=options.get("ops")), ids,
        batch_size=batch_size, time_size=time_size, epochs=epochs, on_epoch=on_epoch,
    )  # fmt: skip
    return WordRun(model, vocabulary, perplexities)


def train_words(
    model: Any,
    optimizer: Any,
    ids: ArrayLike,
    *,
    batch_size: int = 10,
    time_size: int = 5,
    epochs: int = 100,
    max_grad: float | None = None,
    on_epoch: Callable[[int, float], object] | None = None,
) -> list[float]:
    """The textbook's loop: truncated BPTT in lanes that never end.

    With L = len(ids) - 1 words that have a successor, lane n starts at word n * (L // N), and every
    block takes the next T words of each lane, around the end of the text. An epoch is L // (N T)
    blocks; neither position nor carried state is reset between epochs.

    Parameters
    ----------
    model, optimizer : as in `rnnfast.models` and `rnnfast.training`
    ids : int array (M,)
    batch_size, time_size, epochs : int, keyword-only (like all that follow)
        N, T, and how many epochs.
    max_grad : float or None
        Norm at which the gradient is clipped.
    on_epoch : called with (epoch, perplexity) after every epoch

    Returns
    -------
    list of float
        e^(mean training loss of the epoch), by epoch.

    Raises
    ------
    InputError
        For fewer ids than N * T + 1.
    TrainingDiverged
        Where a loss or its gradient is not finite.
    """
    N, T = as_count("batch_size", batch_size), as_count("time_size", time_size)
    epochs = as_count("epochs", epochs)
    ids = np.asarray(ids)
    if ids.ndim == 1 and len(ids) <= N * T:
        raise InputError(
            f"ids: expected at least {N * T + 1:,} words for {N} lanes of {T}, got {len(ids):,}; "
            "take a longer text, or a smaller batch_size or time_size"
        )
    ids = as_ids("ids", ids, model.vocab_size, ("M",))
    inputs, targets = ids[:-1], ids[1:]
    size = len(inputs)
    starts = size // N * np.arange(N)[:, None]
    time_index, perplexities = 0, []
    for epoch in range(1, epochs + 1):
        losses = []
        for _ in range(size // (N * T)):
            where = (starts + time_index + np.arange(T)) % size
            block = inputs[where], targets[where]
            losses.append(take_step(model, optimizer, *block, max_grad=max_grad))
            time_index += T
        perplexities.append(perplexity(float(np.mean(losses))))
        if on_epoch:
            on_epoch(epoch, perplexities[-1])
    return perplexities
