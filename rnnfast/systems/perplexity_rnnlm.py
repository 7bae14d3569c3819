"""Notebook 000: a word model whose loss is the mean of 1/p.

Letters: N batch rows (lanes), T time steps, D embedding size, H hidden size, V vocabulary size.
"""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike

from .._checks import as_count, as_ids, normal_numbers
from .._ops import Ops
from .._types import Array, ArrayLike, Ids, Seed
from ..layers import TimeAffine, TimeEmbedding, TimeRNN
from ..losses import TimePerplexityLoss, TimeSoftmax
from ..models.saving import known
from ..text.vocabulary import check_length
from ..training.optimizers import SGD
from ..training.plot import plot_curve
from ..training.steps import take_step
from ._shared import Named, NamedNetwork, own_weights

SHAPES = {"We": "VD", "Wx": "DH", "Wh": "HH", "Br": "H", "Wa": "HV", "Ba": "V"}
RECORD_EVERY = 10


class Record(NamedTuple):
    """What was measured before an update: mean of 1/p, and e^(mean of -log p) beside it."""

    iteration: int
    loss: float
    perplexity: float


def cyclic_batch(corpus: ArrayLike, batch_size: int) -> tuple[Ids, Ids]:
    """The whole corpus in every lane: ids (T,) -> X (N, T) and the ids that follow, T_id (N, T, 1).

    Lane n starts at position n * max(T // N, 1), and goes around the end. Raises TypeError and
    ValueError for what is not a corpus of at least two ids.
    """
    N = as_count("batch_size", batch_size)
    corpus = as_ids("corpus", corpus, np.iinfo(np.int64).max, ("T",))
    check_length("corpus", corpus)
    distance = max(len(corpus) // N, 1)
    X = np.stack([np.roll(corpus, -lane * distance) for lane in range(N)])
    return X, np.roll(X, -1, axis=1)[:, :, None]


@known
class PerplexityRnnlm(NamedNetwork):
    """Embedding, plain recurrent layer, affine, softmax, and the mean of 1/p as the loss.

    Parameters
    ----------
    init_W : arrays We (V, D), Wx (D, H), Wh (H, H), Wa (H, V)
    init_b : arrays Br (1, H), Ba (1, V); or (H,), (V,)
        Initial weights, all float32 or all float64; they are copied.
    time_T : int or None
        Most time steps that a block may have; None is any number.
    batch_size : int
        N, how many lanes `train` makes of a corpus.
    lr : float
        Learning rate of `train`, which is plain gradient descent.
    truncate_size, stateful : keyword-only, as in `TimeRNN`
        By default the gradient flows through the whole block, and each block starts from zeros.
    eps : float, keyword-only, as in `TimePerplexityLoss`
    ops : module with the arithmetic, see `rnnfast.layers`

    Attributes
    ----------
    weights, gradients : dicts of arrays by the names We, Wx, Wh, Br, Wa, Ba
    params, grads : the same as lists
    loss_layer : its `perplexity` is e^(mean of -log p) of the last forward
    history : list of Record, one for every tenth iteration of the last `train`; no part of a
        saved file

    Examples
    --------
    >>> import numpy as np, rnnfast
    >>> words = "you say goodbye and i say hello"
    >>> vocabulary = rnnfast.Vocabulary.from_text(words, "word")
    >>> model = rnnfast.PerplexityRnnlm.random(
    ...     len(vocabulary), 5, 6, batch_size=4, lr=0.1, rng=np.random.RandomState(0))
    >>> for record in model.train(vocabulary.encode(words), 31):
    ...     print(record.iteration, round(record.loss, 2), round(record.perplexity, 2))
    0 5.97 5.97
    10 3.05 2.96
    20 2.03 1.97
    30 1.72 1.67
    """

    PARAMS: ClassVar[tuple[str, ...]] = ("embedding.W", *NamedNetwork.PARAMS)
    batch_size: int
    vocab_size: int
    optimizer: SGD
    history: list[Record]

    def __init__(
        self,
        init_W: Sequence[ArrayLike],
        init_b: Sequence[ArrayLike],
        time_T: int | None,
        batch_size: int,
        lr: float = 0.01,
        *,
        truncate_size: int | None = None,
        stateful: bool = False,
        eps: float = 1e-8,
        ops: Ops | None = None,
    ) -> None:
        if len(init_W) != 4 or len(init_b) != 2:
            raise ValueError(
                "init_W, init_b: expected the arrays (We, Wx, Wh, Wa) and (Br, Ba), "
                f"got {len(init_W)} and {len(init_b)} of them"
            )
        names = "We", "Wx", "Wh", "Wa", "Br", "Ba"
        weights = own_weights(dict(zip(names, (*init_W, *init_b), strict=True)), SHAPES)
        We, Wx, Wh, Br, Wa, Ba = weights.values()
        self.time_T: int | None = None if time_T is None else as_count("time_T", time_T)
        self.batch_size = as_count("batch_size", batch_size)
        self.vocab_size = len(We)
        self.optimizer = SGD(lr, ops=ops)
        self.history = []
        layers = {
            "embedding": TimeEmbedding(We, ops=ops),
            "recurrent": TimeRNN(
                Wx, Wh, Br.reshape(-1), stateful, truncate_size=truncate_size, ops=ops
            ),
            "affine": TimeAffine(Wa, Ba.reshape(-1), ops=ops),
            "softmax": TimeSoftmax(),
        }
        super().__init__(layers, TimePerplexityLoss(eps), weights)

    @classmethod
    def _arguments(cls, weights: Named) -> tuple[Any, ...]:
        We, Wx, Wh, Br, Wa, Ba = (weights[name] for name in SHAPES)
        return (We, Wx, Wh, Wa), (Br, Ba)

    def _options(self) -> dict[str, Any]:
        sizes = {"time_T": self.time_T, "batch_size": self.batch_size}
        return super()._options() | sizes | {"lr": self.optimizer.lr}

    @classmethod
    def random(
        cls,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        *,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
        time_T: int | None = None,
        batch_size: int,
        **options: Any,
    ) -> Self:
        """A model with the textbook's initial weights: normal, divided by 100 for We and by the
        square root of their number of rows elsewhere, drawn in the order We, Wx, Wh, Wa; biases 0.

        rng : numpy.random.Generator or RandomState, an int that seeds a Generator, or None, which
            is NumPy's global state
        """
        V = as_count("vocab_size", vocab_size)
        D = as_count("wordvec_size", wordvec_size)
        H = as_count("hidden_size", hidden_size)
        normal = normal_numbers(rng)
        shapes = ((V, D, 100), (D, H, D**0.5), (H, H, H**0.5), (H, V, H**0.5))
        init_W = [(normal((rows, cols)) / scale).astype(dtype) for rows, cols, scale in shapes]
        init_b = np.zeros((1, H), dtype), np.zeros((1, V), dtype)
        return cls(init_W, init_b, time_T, batch_size, **options)

    def predict(self, X: ArrayLike, **options: Any) -> Array:  # type: ignore[override]  # its name
        """Ids X (N, T) -> probabilities (N, T, V) of the token that follows each."""
        if self.time_T is not None and np.ndim(X) == 2 and np.shape(X)[1] > self.time_T:
            raise ValueError(
                f"X: expected at most time_T = {self.time_T} time steps, got {np.shape(X)[1]}; "
                "give shorter blocks, or build the model with a larger time_T or None"
            )
        return super().predict(X, **options)

    def train(  # type: ignore[override]  # the notebook's name; Network's says how layers compute
        self,
        corpus: ArrayLike,
        iter_num: int = 100,
        *,
        max_grad: float | None = None,
        on_record: Callable[[Record], object] | None = None,
    ) -> list[Record]:
        """Full-batch gradient descent on the cyclic lanes of a corpus (see `cyclic_batch`).

        Parameters
        ----------
        corpus : int array (T,)
        iter_num : int
            Iterations, each one update.
        max_grad : float or None, keyword-only (like what follows)
            Norm at which the gradient is clipped; at the start it is about V times that of the
            cross entropy.
        on_record : called with every Record, for example `print`

        Returns
        -------
        list of Record, one for every tenth iteration, measured before its update

        Raises
        ------
        TypeError, ValueError, TrainingDiverged
        """
        X, T_id = cyclic_batch(corpus, self.batch_size)
        self.history = []
        for n in range(as_count("iter_num", iter_num)):
            loss = take_step(self, self.optimizer, X, T_id, max_grad=max_grad)
            if n % RECORD_EVERY == 0:
                self.history.append(Record(n, loss, self.loss_layer.perplexity))
                if on_record:
                    on_record(self.history[-1])
        return self.history

    def plot(self, path: str | PathLike[str]) -> None:
        """Write the losses of the last `train` as a PNG; needs matplotlib."""
        iterations, losses, _ = zip(*self.history, strict=True) if self.history else ((), (), ())
        plot_curve(path, iterations, losses, xlabel="iteration", ylabel="mean of 1/p",
                   title="PerplexityRnnlm")  # fmt: skip
