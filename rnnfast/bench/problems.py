"""What the contestants compute: the same numbers in every process.

N batch rows, T time steps, D input size, H hidden size, V vocabulary size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._types import Array, Ids
from ..cells import CELLS
from ..models import LANGUAGE_MODELS, Network

LEARNING_RATE = 0.1


def layer(
    cell: str, dtype: str, shape: Sequence[int]
) -> tuple[Array, tuple[Array, Array, Array], Array]:
    """Input (N, T, D), weights (Wx, Wh, b), and gradient of the output (N, T, H)."""
    N, T, D, H = shape
    rng, G = np.random.default_rng(0), CELLS[cell].G

    def normal(*shape: int, scale: float = 1.0) -> Array:
        return (rng.standard_normal(shape) / scale).astype(dtype)

    return (
        normal(N, T, D),
        (normal(D, G * H, scale=D**0.5), normal(H, G * H, scale=H**0.5), normal(G * H)),
        normal(N, T, H),
    )


def layer_gflops(cell: str, shape: Sequence[int], way: str) -> float:
    """1e9 floating point operations of the products; backward has twice those of forward."""
    N, T, D, H = shape
    return 2e-9 * N * T * (D + H) * CELLS[cell].G * H * (1 if way == "forward" else 3)


def token_ids(V: int, shape: Sequence[int]) -> Ids:
    """Ids as they are in a text: a few tokens are most of it (Zipf)."""
    probabilities = 1 / np.arange(1, V + 1)
    return np.random.default_rng(0).choice(V, shape, p=probabilities / probabilities.sum())


def blocks(N: int, T: int, V: int) -> list[tuple[Ids, Ids]]:
    """Ten pairs of ids and targets, (N, T)."""
    return [(ids[:, :-1].copy(), ids[:, 1:].copy()) for ids in token_ids(V, (10, N, T + 1))]


def language_model(cell: str, V: int, D: int, H: int, **options: Any) -> Network:
    """A model of this package; its weights are also what the peers start from."""
    return LANGUAGE_MODELS[cell](V, D, H, rng=np.random.default_rng(0), **options)


def embedding(V: int, D: int, tokens: int) -> tuple[Array, Ids, Array]:
    """Table (V, D), ids (1, tokens), and gradient of the vectors (1, tokens, D)."""
    rng = np.random.default_rng(0)
    W, dxs = (rng.standard_normal(s).astype("f") for s in ((V, D), (1, tokens, D)))
    return W, token_ids(V, (1, tokens)), dxs


def matrices(size: int) -> Array:
    """Two matrices (size, size), float32."""
    return np.random.default_rng(0).standard_normal((2, size, size)).astype("f")
