"""Two tasks for an encoder and a decoder, after the textbook: sums, and dates in many forms.

Letters: N questions, S characters that are read of a question, T of an answer.
"""

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .._checks import as_count
from .._types import Array, Ids
from ..errors import InputError
from ..models import AttentionSeq2seq, PeekySeq2seq, Seq2seq
from ..text.pairs import addition_pairs, date_pairs
from ..text.vocabulary import Vocabulary
from ..training.optimizers import Adam
from ..training.pairs import right_answers, train_pairs

START = "_"
"""What the decoder reads first."""
STOP = " "
"""What ends an answer, and fills up texts that are shorter than others."""


@dataclass(frozen=True)
class Example:
    """A task, and a model with settings that learn it in about a minute."""

    name: str
    about: str
    make: Callable[..., tuple[list[str], list[str]]]
    """make(count, rng=...) -> questions and answers"""
    alphabet: str
    question_size: int
    answer_size: int
    Model: type[Seq2seq]
    reverse: bool
    """Whether questions are filled up to one size, and read from their end: learnt much faster."""
    epochs: int
    wordvec_size: int = 16
    hidden_size: int = 128
    batch_size: int = 64
    lr: float = 0.005
    max_grad: float = 5.0

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The characters of questions and answers."""
        return Vocabulary(self.alphabet + STOP + START, "char")

    def read(self, text: str) -> str:
        """What the encoder reads of a question."""
        if self.reverse:
            return text.ljust(self.question_size, STOP)[::-1]
        return text + STOP  # or 1 would be the beginning of 12 as well

    def as_questions(self, texts: Sequence[str]) -> dict[str, Any]:
        """Texts -> xs (N, S) and lengths (N,), as the model takes them by name.

        Raises InputError for a text that is empty or too long, or has other characters.
        """
        for text in texts:
            if not 1 <= len(text) <= self.question_size:
                raise InputError(
                    f"question {text!r}: expected 1 to {self.question_size} characters, got "
                    f"{len(text)}"
                )
        read = [self.read(text) for text in texts]
        lengths = np.array([len(text) for text in read])
        return {"xs": self._ids(read, int(lengths.max())), "lengths": lengths}

    def as_answers(self, texts: Sequence[str]) -> Ids:
        """Texts -> ts (N, T+1), START first."""
        return self._ids([START + text for text in texts], self.answer_size + 1)

    def answers(self, model: Seq2seq, texts: Sequence[str], beams: int = 1) -> list[str]:
        """What the model answers to questions."""
        start, stop = map(self.vocabulary.id_of, (START, STOP))
        assert start is not None
        ids = model.generate(
            **self.as_questions(texts), start_id=start, length=self.answer_size, stop_id=stop,
            beams=beams,
        )  # fmt: skip
        return [self.vocabulary.decode(row).rstrip(STOP) for row in ids]

    def attention(self, model: AttentionSeq2seq, question: str, answer: str) -> Array:
        """Weights: a row for every character of the answer, a column for every one of
        `read(question)`, which the model looks at where it writes the other."""
        written = self._ids([START + answer[:-1]], len(answer))
        model.predict(**self.as_questions([question]), decoder_xs=written)
        weights: Array = model.attention.weights[0, :, : len(self.read(question))]
        return weights

    def _ids(self, texts: Sequence[str], size: int) -> Ids:
        joined = "".join(text.ljust(size, STOP) for text in texts)
        return self.vocabulary.encode(joined).reshape(-1, size)


ADDITION = Example(
    name="addition",
    about="sums of two numbers of up to 3 digits",
    make=addition_pairs,
    alphabet="0123456789+",
    question_size=7,
    answer_size=4,
    Model=PeekySeq2seq,
    reverse=True,
    epochs=16,
)
DATES = Example(
    name="dates",
    about="dates in many forms",
    make=date_pairs,
    alphabet="0123456789,-/" + string.ascii_letters,
    question_size=29,
    answer_size=10,
    Model=AttentionSeq2seq,
    reverse=False,
    epochs=6,
)
EXAMPLES = {example.name: example for example in (ADDITION, DATES)}


@dataclass
class Result:
    """A model that has learnt an example, and how well it answers what it has not seen."""

    model: Seq2seq
    questions: list[str]
    """Those of the test, of which none was in the training."""
    answers: list[str]
    losses: list[float]
    """Mean training loss in nats per character of an answer, by epoch."""
    accuracies: list[float]
    """Part of the test that is answered right, by epoch."""


def train_example(
    example: Example,
    *,
    pairs: int = 50_000,
    epochs: int | None = None,
    seed: int = 0,
    on_step: Callable[[int, float], object] | None = None,
    on_epoch: Callable[[int, float, float], object] | None = None,
) -> Result:
    """Train the model of an example on nine tenths of `pairs` pairs, and test it on the others.

    Data, initial weights and the order of the batches are drawn with `seed`. The learning rate
    falls to 0 along a half period of the cosine. `on_step` as in `train_pairs`; `on_epoch` is
    called with (epoch, mean loss, accuracy).
    """
    pairs = as_count("pairs", pairs, least=10)
    rng = np.random.default_rng(seed)
    questions, answers = example.make(pairs, rng=rng)
    inputs, ts = example.as_questions(questions), example.as_answers(answers)
    count = pairs // 10
    test: dict[str, Any]
    rest: dict[str, Any]
    test, rest = (
        {name: array[part] for name, array in {**inputs, "ts": ts}.items()}
        for part in (slice(count), slice(count, None))
    )
    model = example.Model(
        len(example.vocabulary), example.wordvec_size, example.hidden_size, rng=rng
    )
    stop_id, accuracies = example.vocabulary.id_of(STOP), []

    def test_epoch(epoch: int, loss: float) -> None:
        accuracies.append(float(right_answers(model, **test, stop_id=stop_id).mean()))
        if on_epoch:
            on_epoch(epoch, loss, accuracies[-1])

    losses = train_pairs(
        model, Adam(example.lr), **rest, batch_size=example.batch_size,
        epochs=example.epochs if epochs is None else epochs, max_grad=example.max_grad,
        schedule=lambda done: (1 + math.cos(math.pi * done)) / 2,
        rng=rng, on_step=on_step, on_epoch=test_epoch,
    )  # fmt: skip
    return Result(model, questions[:count], answers[:count], losses, accuracies)
