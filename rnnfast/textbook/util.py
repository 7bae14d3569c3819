"""Words, vectors of words, and what a trained model is worth. V vocabulary size."""

import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .._checks import as_array, as_count, as_ids, check_shape
from .._types import Array, ArrayLike, Ids
from ..training import optimizers
from .config import GPU

__all__ = [
    "GPU",
    "analogy",
    "clip_grads",
    "convert_one_hot",
    "cos_similarity",
    "create_co_matrix",
    "create_contexts_target",
    "eval_perplexity",
    "eval_seq2seq",
    "most_similar",
    "normalize",
    "np",
    "ppmi",
    "preprocess",
    "to_cpu",
    "to_gpu",
]


def preprocess(text: str) -> tuple[Ids, dict[str, int], dict[int, str]]:
    """Text -> ids of its words (M,), the id of every word, the word of every id.

    Words are separated by single blanks, in lower case; a full stop is a word. Ids are given in the
    order of the first places.
    """
    words = text.lower().replace(".", " .").split(" ")
    word_to_id = {word: number for number, word in enumerate(dict.fromkeys(words))}
    corpus = np.array([word_to_id[word] for word in words])
    return corpus, word_to_id, {number: word for word, number in word_to_id.items()}


def cos_similarity(x: Array, y: Array, eps: float = 1e-8) -> Any:
    """x y / (|x| |y|) of two vectors; eps is added to each norm, so that zeros give 0."""
    return np.dot(_shortened(x, eps), _shortened(y, eps))


def most_similar(
    query: str,
    word_to_id: Mapping[str, int],
    id_to_word: Mapping[int, str],
    word_matrix: Array,
    top: int = 5,
) -> None:
    """Print the `top` words whose rows of `word_matrix` (V, D) have the largest `cos_similarity`
    with that of `query`."""
    if not _known((query,), word_to_id):
        return
    print(f"\n[query] {query}")
    vectors = _shortened(np.asarray(word_matrix)[: len(id_to_word)], 1e-8)
    similarity = np.dot(vectors, vectors[word_to_id[query]])
    _print_best(similarity, id_to_word, (query,), top)


def analogy(
    a: str,
    b: str,
    c: str,
    word_to_id: Mapping[str, int],
    id_to_word: Mapping[int, str],
    word_matrix: Array,
    top: int = 5,
    answer: str | None = None,
) -> None:
    """Print the `top` words that are to c as b is to a, and how near `answer` comes: the product of
    their rows of `word_matrix` (V, D) with b - a + c of length 1."""
    if not _known((a, b, c), word_to_id):
        return
    print(f"\n[analogy] {a}:{b} = {c}:?")
    of_a, of_b, of_c = (word_matrix[word_to_id[word]] for word in (a, b, c))
    similarity = np.dot(word_matrix, normalize(of_b - of_a + of_c))
    if answer is not None:
        print(f"==>{answer}:{similarity[word_to_id[answer]]}")
    _print_best(similarity, id_to_word, (a, b, c), top)


def normalize(x: Array) -> Array:
    """x itself, divided in place by its norm: a vector, or each row of a matrix."""
    x /= np.sqrt(np.sum(x * x, axis=-1, keepdims=True))
    return x


def convert_one_hot(corpus: ArrayLike, vocab_size: int) -> Array:
    """Ids of any shape (...) -> (..., V), int32, 1 at the id and 0 elsewhere."""
    ids = as_ids("corpus", corpus, vocab_size, np.shape(corpus))
    one_hot = np.zeros((*ids.shape, vocab_size), np.int32)
    np.put_along_axis(one_hot, ids[..., None], 1, axis=-1)
    return one_hot


def create_co_matrix(corpus: ArrayLike, vocab_size: int, window_size: int = 1) -> Array:
    """Ids (M,) -> (V, V), int32: how often the word of a column stands at most `window_size` words
    before or behind that of a row."""
    ids = as_ids("corpus", corpus, vocab_size, ("M",))
    counts = np.zeros((vocab_size, vocab_size), np.int32)
    for distance in range(1, min(window_size, len(ids) - 1) + 1):
        np.add.at(counts, (ids[:-distance], ids[distance:]), 1)
    return counts + counts.T


def ppmi(C: Array, verbose: bool = False, eps: float = 1e-8) -> Array:
    """Positive pointwise mutual information of a matrix of counts C (V, V), float32:
    max(0, log2(C_ij sum(C) / (S_i S_j) + eps)), with S the sums of the columns.

    `verbose` prints how far it is.
    """
    total, sums = C.sum(), C.sum(axis=0, dtype=np.float64)
    information, shown = np.zeros(C.shape, np.float32), 0
    for i, row in enumerate(C):
        with np.errstate(divide="ignore", invalid="ignore"):  # words that do not occur
            pmi = np.log2(row * total / (sums * sums[i]) + eps)
        information[i] = np.fmax(pmi, 0)  # 0 for NaN too
        percent = 100 * (i + 1) // len(C)
        if verbose and percent > shown:
            print(f"{percent}% done")
            shown = percent
    return information


def create_contexts_target(corpus: ArrayLike, window_size: int = 1) -> tuple[Array, Array]:
    """Ids (M,) -> contexts (M - 2 window_size, 2 window_size), the words around each, and targets
    (M - 2 window_size,)."""
    corpus = as_array("corpus", corpus)
    check_shape("corpus", corpus, ("M",))
    size = as_count("window_size", window_size)
    centres = np.arange(size, len(corpus) - size)
    offsets = np.delete(np.arange(-size, size + 1), size)
    return corpus[centres[:, None] + offsets], corpus[centres]


def to_cpu(x: ArrayLike) -> Array:
    """x as an array of NumPy."""
    return np.asarray(x)


def to_gpu(x: ArrayLike) -> Array:
    """Always an error: rnnfast computes on the CPU alone."""
    raise RuntimeError("to_gpu: rnnfast computes on the CPU alone; leave the array where it is")


def clip_grads(grads: list[Array], max_norm: float) -> None:
    """Scale all grads in place by max_norm / (norm + 1e-6), their common norm, where that is below
    1; where the norm is not finite, nothing changes."""
    optimizers.clip_grads(grads, max_norm)


def eval_perplexity(
    model: Any, corpus: ArrayLike, batch_size: int = 10, time_size: int = 35
) -> float:
    """e to the mean loss of a model over a text of ids (M,), in `batch_size` stretches that are
    read `time_size` tokens at a time.

    Calls `model.forward(xs, ts)`, with `train_flg=False` where it takes that.

    Raises ValueError for a text of less than one block and a token.
    """
    print("evaluating perplexity ...")
    corpus = np.asarray(corpus)
    blocks, jump = (len(corpus) - 1) // (batch_size * time_size), (len(corpus) - 1) // batch_size
    if blocks < 1:
        raise ValueError(
            f"corpus: expected at least {batch_size * time_size + 1} tokens, got {len(corpus)}; "
            "take a longer text, or smaller batch and time sizes"
        )
    options = {"train_flg": False} if _takes_train_flg(model.forward) else {}
    total = 0.0
    for block in range(blocks):
        xs, ts = batch_of(corpus, corpus, batch_size, time_size, jump, block * time_size, 1)
        total += model.forward(xs, ts, **options)
        sys.stdout.write(f"\r{block} / {blocks}")
        sys.stdout.flush()
    print("")
    perplexity: float = np.exp(total / blocks)
    return perplexity


def batch_of(
    xs: Array, ts: Array, batch_size: int, time_size: int, jump: int, start: int, ahead: int = 0
) -> tuple[Array, Array]:
    """Block of a text, both (N, T) of int32: row n begins at n jump + start, and what is beyond the
    end stands at the beginning. Targets are `ahead` further on."""
    first = start % len(xs)
    places = jump * np.arange(batch_size)[:, None] + np.arange(first, first + time_size)
    inputs, targets = xs.take(places, mode="wrap"), ts.take(places + ahead, mode="wrap")
    return inputs.astype(np.int32), targets.astype(np.int32)


def eval_seq2seq(
    model: Any,
    question: Array,
    correct: Array,
    id_to_char: Mapping[int, str],
    verbos: bool = False,
    is_reverse: bool = False,
) -> int:
    """1 where `model.generate` answers a question as it should, else 0.

    `question` (1, T) and `correct` (1, T') are ids, the first of `correct` being the start. With
    `verbos` question, target and answer are printed; with `is_reverse` the question backwards.
    """
    start_id, *target = correct.flatten()
    guess = model.generate(question, start_id, len(target))
    target_text, guess_text = (_text(ids, id_to_char) for ids in (target, guess))
    right = target_text == guess_text
    if verbos:
        asked = _text(question.flatten(), id_to_char)
        marks = "XO" if os.name == "nt" else "☒☑"  # as the console can show them
        mark = f"\033[9{2 if right else 1}m{marks[right]}\033[0m"
        print("Q", asked[::-1] if is_reverse else asked)
        print("T", target_text)
        print(mark, guess_text)
        print("---")
    return int(right)


def _text(ids: Iterable[Any], id_to_char: Mapping[int, str]) -> str:
    return "".join([id_to_char[int(c)] for c in ids])


def _shortened(x: Array, eps: float) -> Array:
    """Vectors divided by their norms."""
    short: Array = x / (np.sqrt(np.sum(x**2, axis=-1, keepdims=True)) + eps)
    return short


def _known(words: tuple[str, ...], word_to_id: Mapping[str, int]) -> bool:
    """Whether all words are in the vocabulary; prints the first that is not."""
    for word in words:
        if word not in word_to_id:
            print(f"{word} is not found")
            return False
    return True


def _print_best(
    similarity: Array, id_to_word: Mapping[int, str], without: tuple[str, ...], top: int
) -> None:
    """Print the words of the largest values that are numbers."""
    order = [int(i) for i in (-similarity).argsort() if not np.isnan(similarity[i])]
    for i in [i for i in order if id_to_word[i] not in without][:top]:
        print(f" {id_to_word[i]}: {similarity[i]}")


def _takes_train_flg(forward: Any) -> bool:
    try:
        parameters = inspect.signature(forward).parameters.values()
    except ValueError:  # a compiled function that does not say
        return False
    return any(p.name == "train_flg" or p.kind is p.VAR_KEYWORD for p in parameters)
