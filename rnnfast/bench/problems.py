"""What the contestants compute: the same numbers in every process.

N batch rows, T time steps, D input size, H hidden size, V vocabulary size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._types import Array, Ids
from ..cells import CELLS
from ..layers import TimeEmbedding, TimeLSTM
from ..losses import TimeAffineWithLoss
from ..models import LANGUAGE_MODELS, LanguageModel, Network
from ..text import Vocabulary, builtin_corpus, split_by_position
from ..training import Settings

LEARNING_RATE = 0.1
DENORMAL = 1e-39  # what makes denormal numbers of those about 1 in float32
FADING = 1e-25  # what gradients begin with that are denormal some fifty steps earlier
ADDITION_VOCABULARY, DATES_VOCABULARY = 13, 59


def layer(
    cell: str, dtype: str, shape: Sequence[int], *, directions: int = 1, layers: int = 1
) -> tuple[Array, list[Array], Array]:
    """Input (N, T, D), weights as a layer has them in `params`: of each layer, and in it of each
    direction; and gradient of the output (N, T, directions*H)."""
    N, T, D, H = shape
    rng, kind = np.random.default_rng(0), CELLS[cell]

    def normal(*shape: int, scale: float = 1.0) -> Array:
        return (rng.standard_normal(shape) / scale).astype(dtype)

    def direction(rows: int) -> list[Array]:
        Wx = normal(rows, kind.G * H, scale=rows**0.5)
        Wh = normal(H, kind.G * H, scale=H**0.5)
        return [Wx, Wh, *(normal(kind.G * H) for _ in kind.weights[2:])]

    xs = normal(N, T, D)
    rows = [D, *[directions * H] * (layers - 1)]
    weights = [W for K in rows for _ in range(directions) for W in direction(K)]
    if cell == "rnn_relu":
        # all units far from 0, where rounding would decide whether there is a gradient
        Wx, Wh, b = weights
        weights = [Wx / 2, Wh / 10, np.copysign(np.full_like(b, 3), b)]
    return xs, weights, normal(N, T, directions * H)


def lengths(shape: Sequence[int]) -> Ids:
    """Lengths of the rows, drawn evenly from 1..T."""
    N, T, *_ = shape
    return np.random.default_rng(0).integers(1, T + 1, N)


def layer_gflops(
    cell: str,
    shape: Sequence[int],
    way: str,
    *,
    directions: int = 1,
    layers: int = 1,
    ragged: bool = False,
) -> float:
    """1e9 floating point operations of the products; backward has twice those of forward."""
    N, T, D, H = shape
    steps = int(lengths(shape).sum()) if ragged else N * T
    rows = D + H + (layers - 1) * (directions + 1) * H
    passes = 3 if way == "both" else 1
    return 2e-9 * steps * rows * directions * CELLS[cell].G * H * passes


def affine(N: int, D: int, M: int, tied: bool) -> tuple[Array, Array, Array]:
    """Input (N, 1, D), W (D, M), the transpose of a table (M, D) if `tied`, and b (M,)."""
    rng = np.random.default_rng(0)
    W = (rng.standard_normal((M, D) if tied else (D, M)) / D**0.5).astype("f")
    x, b = (rng.standard_normal(s).astype("f") for s in ((N, 1, D), M))
    return x, W.T if tied else W, b


def dropout(shape: Sequence[int]) -> Array:
    """Input, and gradient of the output, both of the shape."""
    both: Array = np.random.default_rng(0).standard_normal((2, *shape)).astype("f")
    return both


def attention(N: int, S: int, T: int, H: int) -> tuple[Array, Array, Array]:
    """States of the encoder (N, S, H) and of the decoder (N, T, H), gradient of the contexts."""
    rng = np.random.default_rng(0)
    enc, dec, dout = (rng.standard_normal((N, K, H)) for K in (S, T, T))
    return enc.astype("f"), (dec / H**0.5).astype("f"), dout.astype("f")


def step(cell: str, N: int, D: int, H: int) -> tuple[Array, list[Array], Array]:
    """Input (N, D), weights, and the states before the step (S, N, H)."""
    xs, weights, _ = layer(cell, "float32", (N, 1, D, H))
    states = np.random.default_rng(1).uniform(-1, 1, (CELLS[cell].S, N, H)).astype("f")
    return xs[:, 0], weights, states


def token_ids(V: int, shape: Sequence[int]) -> Ids:
    """Ids as they are in a text: a few tokens are most of it (Zipf)."""
    probabilities = 1 / np.arange(1, V + 1)
    return np.random.default_rng(0).choice(V, shape, p=probabilities / probabilities.sum())


def blocks(N: int, T: int, V: int) -> list[tuple[Ids, Ids]]:
    """Ten pairs of ids and targets, (N, T)."""
    return [(ids[:, :-1].copy(), ids[:, 1:].copy()) for ids in token_ids(V, (10, N, T + 1))]


def addition(count: int) -> tuple[Ids, Ids]:
    """Questions (count, 7) such as "314+15 " backwards, and their answers (count, 5), "_329 ", as
    ids of characters."""
    numbers = np.random.default_rng(0).integers(0, 1000, (count, 2))
    characters = "0123456789+_ "
    assert len(characters) == ADDITION_VOCABULARY
    texts = [(f"{a}+{b}".ljust(7)[::-1], f"_{a + b}".ljust(5)) for a, b in numbers]
    questions, answers = (
        np.array([[*map(characters.index, text)] for text in column])
        for column in zip(*texts, strict=True)
    )
    return questions, answers


def dates(count: int) -> tuple[Ids, Ids]:
    """Ids of the shape that dates in words, and in figures, have: (count, 29) and (count, 11)."""
    rng = np.random.default_rng(0)
    return rng.integers(0, DATES_VOCABULARY, (count, 29)), rng.integers(
        0, DATES_VOCABULARY, (count, 11)
    )


def language_model(cell: str, V: int, D: int, H: int, **options: Any) -> Network:
    """A model of this package; its weights are also what the peers start from."""
    return LANGUAGE_MODELS[cell](V, D, H, rng=np.random.default_rng(0), **options)


def wide_table(rows: int, V: int, D: int, H: int, **options: Any) -> Network:
    """A model with an LSTM whose embedding has so many rows, and V outputs."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        W: Array = (rng.standard_normal(shape) / shape[0] ** 0.5).astype("f")
        return W

    layers = [
        TimeEmbedding((rng.standard_normal((rows, D)) / 100).astype("f"), **options),
        TimeLSTM(normal(D, 4 * H), normal(H, 4 * H), np.zeros(4 * H, "f"), **options),
    ]
    return Network(layers, TimeAffineWithLoss(normal(H, V), np.zeros(V, "f"), **options))


def writer(cell: str, V: int, D: int, H: int) -> Network:
    """A model whose next token depends on those before, as it does when it has been trained."""
    model = language_model(cell, V, D, H)
    model.params[0] *= 100
    return model


def embedding(V: int, D: int, tokens: int) -> tuple[Array, Ids, Array]:
    """Table (V, D), ids (1, tokens), and gradient of the vectors (1, tokens, D)."""
    rng = np.random.default_rng(0)
    W, dxs = (rng.standard_normal(s).astype("f") for s in ((V, D), (1, tokens, D)))
    return W, token_ids(V, (1, tokens)), dxs


def matrices(size: int) -> Array:
    """Two matrices (size, size), float32."""
    return np.random.default_rng(0).standard_normal((2, size, size)).astype("f")


def recipe(quick: bool) -> tuple[Settings, LanguageModel, Ids, Ids]:
    """What `rnnfast train` trains without options: settings, model, ids to train and to validate;
    a small model for one epoch where it has to be quick."""
    settings = Settings(hidden=32, epochs=1) if quick else Settings()
    text = builtin_corpus()
    vocabulary = Vocabulary.from_text(text)
    train, valid, _ = split_by_position(vocabulary.encode(text))
    model = LanguageModel(len(vocabulary), rng=settings.seed, **settings.of_model)
    return settings, model, train, valid
