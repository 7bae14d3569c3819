"""The programs of the textbook's chapters 5 to 8, written as a reader of it would: models made of
layers, a trainer or a loop of one's own, an evaluation. Written anew for this comparison.

`common` is what such a program imports: layers, optimizers, trainers and evaluations by the names
of the book's folder `common/`, be they those of `rnnfast.textbook` or of plain NumPy.

N batch rows, T time steps, D vector size, H hidden size, V vocabulary size, S steps of an encoder.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from .._types import Array, Ids
from . import problems

Common: TypeAlias = Any
IMPORTED = ("time_layers", "optimizer", "trainer", "util")
"""Modules of the book's folder."""


def normal(rows: int, columns: int, scale: float) -> Array:
    W: Array = (np.random.randn(rows, columns) / scale).astype("f")
    return W


def weights(rows: int, columns: int) -> Array:
    return normal(rows, columns, np.sqrt(rows))


def recurrent(layer: Any, gates: int, D: int, H: int, stateful: bool) -> Any:
    columns = gates * H
    b = np.zeros(columns).astype("f")
    return layer(weights(D, columns), weights(H, columns), b, stateful=stateful)


# language models


class Rnnlm:
    """Chapter 6; with an RNN it is chapter 5's SimpleRnnlm."""

    layers: list[Any]
    recurrent_layers: list[Any]
    drop_layers: list[Any]
    loss_layer: Any
    params: list[Array]
    grads: list[Array]

    def __init__(self, common: Common, V: int, D: int, H: int, cell: str = "lstm") -> None:
        layer, gates = {"rnn": (common.TimeRNN, 1), "lstm": (common.TimeLSTM, 4)}[cell]
        self.layers = [
            common.TimeEmbedding(normal(V, D, 100)),
            recurrent(layer, gates, D, H, True),
            common.TimeAffine(weights(H, V), np.zeros(V).astype("f")),
        ]
        self.recurrent_layers, self.drop_layers = self.layers[1:2], []
        self._collect(common)

    def _collect(self, common: Common) -> None:
        self.loss_layer = common.TimeSoftmaxWithLoss()
        self.params, self.grads = [], []
        for layer in self.layers:
            self.params += layer.params
            self.grads += layer.grads

    def predict(self, xs: Any) -> Any:
        for layer in self.layers:
            xs = layer.forward(xs)
        return xs

    def forward(self, xs: Ids, ts: Ids) -> float:
        return float(self.loss_layer.forward(self.predict(xs), ts))

    def backward(self, dout: Any = 1) -> Any:
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return dout

    def reset_state(self) -> None:
        for layer in self.recurrent_layers:
            layer.reset_state()


class BetterRnnlm(Rnnlm):
    """Chapter 6: two layers, dropout, tied weights."""

    def __init__(self, common: Common, V: int, D: int, H: int) -> None:
        embed_W = normal(V, D, 100)
        self.recurrent_layers = [recurrent(common.TimeLSTM, 4, rows, H, True) for rows in (D, H)]
        self.drop_layers = [common.TimeDropout(0.5) for _ in range(3)]
        self.layers = [
            common.TimeEmbedding(embed_W),
            self.drop_layers[0],
            self.recurrent_layers[0],
            self.drop_layers[1],
            self.recurrent_layers[1],
            self.drop_layers[2],
            common.TimeAffine(embed_W.T, np.zeros(V).astype("f")),
        ]
        self._collect(common)

    def forward(self, xs: Ids, ts: Ids, train_flg: bool = True) -> float:
        for layer in self.drop_layers:
            layer.train_flg = train_flg
        return super().forward(xs, ts)


# models from sequence to sequence


class Encoder:
    embed: Any
    lstm: Any
    params: list[Array]
    grads: list[Array]
    hs: Array

    def __init__(self, common: Common, V: int, D: int, H: int) -> None:
        self.embed = common.TimeEmbedding(normal(V, D, 100))
        self.lstm = recurrent(common.TimeLSTM, 4, D, H, False)
        self.params = self.embed.params + self.lstm.params
        self.grads = self.embed.grads + self.lstm.grads

    def forward(self, xs: Ids) -> Array:
        self.hs = self.lstm.forward(self.embed.forward(xs))
        return self.hs[:, -1, :]

    def backward(self, dh: Array) -> None:
        dhs = np.zeros_like(self.hs)
        dhs[:, -1, :] = dh
        self.embed.backward(self.lstm.backward(dhs))


class AttentionEncoder(Encoder):
    """All its states, for attention."""

    def forward(self, xs: Ids) -> Array:
        hs: Array = self.lstm.forward(self.embed.forward(xs))
        return hs

    def backward(self, dhs: Array) -> None:
        self.embed.backward(self.lstm.backward(dhs))


class Decoder:
    embed: Any
    lstm: Any
    affine: Any
    params: list[Array]
    grads: list[Array]

    def __init__(
        self, common: Common, V: int, D: int, H: int, into_lstm: int = 0, into_affine: int = 0
    ) -> None:
        """`into_...`: how many numbers these layers get besides."""
        self.embed = common.TimeEmbedding(normal(V, D, 100))
        self.lstm = recurrent(common.TimeLSTM, 4, D + into_lstm, H, True)
        self.affine = common.TimeAffine(weights(H + into_affine, V), np.zeros(V).astype("f"))
        self.params, self.grads = [], []
        for layer in (self.embed, self.lstm, self.affine):
            self.params += layer.params
            self.grads += layer.grads

    def forward(self, xs: Ids, of_encoder: Array) -> Array:
        self.start(of_encoder)
        return self.scores(xs, of_encoder)

    def start(self, of_encoder: Array) -> None:
        self.lstm.set_state(of_encoder)

    def scores(self, xs: Ids, of_encoder: Array) -> Array:
        scores: Array = self.affine.forward(self.lstm.forward(self.embed.forward(xs)))
        return scores

    def backward(self, dscores: Array) -> Array:
        self.embed.backward(self.lstm.backward(self.affine.backward(dscores)))
        dh: Array = self.lstm.dh
        return dh

    def generate(self, of_encoder: Array, start_id: int, sample_size: int) -> list[int]:
        sampled, sample_id = [], start_id
        self.start(of_encoder)
        for _ in range(sample_size):
            scores = self.scores(np.array(sample_id).reshape((1, 1)), of_encoder)
            sample_id = int(np.argmax(scores.flatten()))
            sampled.append(sample_id)
        return sampled


class PeekyDecoder(Decoder):
    """All its layers see the encoder's state at every step."""

    H: int

    def __init__(self, common: Common, V: int, D: int, H: int) -> None:
        super().__init__(common, V, D, H, H, H)

    def scores(self, xs: Ids, of_encoder: Array) -> Array:
        N, T = xs.shape
        hs = np.repeat(of_encoder, T, axis=0).reshape(N, T, -1)
        out = np.concatenate((hs, self.embed.forward(xs)), axis=2)
        out = np.concatenate((hs, self.lstm.forward(out)), axis=2)
        self.H = hs.shape[2]
        scores: Array = self.affine.forward(out)
        return scores

    def backward(self, dscores: Array) -> Array:
        dout = self.affine.backward(dscores)
        dhs, dout = dout[:, :, : self.H], self.lstm.backward(dout[:, :, self.H :])
        self.embed.backward(dout[:, :, self.H :])
        dh: Array = self.lstm.dh + np.sum(dhs + dout[:, :, : self.H], axis=1)
        return dh


class AttentionDecoder(Decoder):
    attention: Any

    def __init__(self, common: Common, V: int, D: int, H: int) -> None:
        super().__init__(common, V, D, H, 0, H)
        # a program may take that of a library
        self.attention = getattr(common, "TimeAttention", partial(TimeAttention, common))()

    def start(self, of_encoder: Array) -> None:
        self.lstm.set_state(of_encoder[:, -1])

    def scores(self, xs: Ids, of_encoder: Array) -> Array:
        hs = self.lstm.forward(self.embed.forward(xs))
        contexts = self.attention.forward(of_encoder, hs)
        scores: Array = self.affine.forward(np.concatenate((contexts, hs), axis=2))
        return scores

    def backward(self, dscores: Array) -> Array:
        dout = self.affine.backward(dscores)
        H = dout.shape[2] // 2
        denc: Array
        denc, dhs = self.attention.backward(dout[:, :, :H])
        self.embed.backward(self.lstm.backward(dout[:, :, H:] + dhs))
        denc[:, -1] += self.lstm.dh
        return denc


class Seq2seq:
    parts: Any = Encoder, Decoder
    encoder: Any
    decoder: Any
    softmax: Any
    params: list[Array]
    grads: list[Array]

    def __init__(self, common: Common, V: int, D: int, H: int) -> None:
        self.encoder, self.decoder = (part(common, V, D, H) for part in self.parts)
        self.softmax = common.TimeSoftmaxWithLoss()
        self.params = self.encoder.params + self.decoder.params
        self.grads = self.encoder.grads + self.decoder.grads

    def forward(self, xs: Ids, ts: Ids) -> float:
        scores = self.decoder.forward(ts[:, :-1], self.encoder.forward(xs))
        return float(self.softmax.forward(scores, ts[:, 1:]))

    def backward(self, dout: float = 1) -> None:
        self.encoder.backward(self.decoder.backward(self.softmax.backward(dout)))

    def generate(self, xs: Ids, start_id: int, sample_size: int) -> list[int]:
        ids: list[int] = self.decoder.generate(self.encoder.forward(xs), start_id, sample_size)
        return ids


class PeekySeq2seq(Seq2seq):
    parts: Any = Encoder, PeekyDecoder


class AttentionSeq2seq(Seq2seq):
    parts: Any = AttentionEncoder, AttentionDecoder


class Attention:
    """Of one step of the decoder, as chapter 8 builds it: products summed by hand."""

    softmax: Any
    hs: Array
    h: Array
    weights: Array

    def __init__(self, softmax: Any) -> None:
        self.softmax = softmax

    def forward(self, hs: Array, h: Array) -> Array:
        self.hs, self.h = hs, h[:, None, :]
        products = hs * self.h
        self.weights = self.softmax.forward(np.sum(products, axis=2))[:, :, None]
        context: Array = np.sum(hs * self.weights, axis=1)
        return context

    def backward(self, dcontext: Array) -> tuple[Array, Array]:
        S, H = self.hs.shape[1:]
        dproducts = dcontext[:, None, :].repeat(S, axis=1)
        dweights = np.sum(dproducts * self.hs, axis=2)
        dscores = self.softmax.backward(dweights)[:, :, None].repeat(H, axis=2)
        dhs = dproducts * self.weights + dscores * self.h
        return dhs, np.sum(dscores * self.hs, axis=1)


class TimeAttention:
    """One `Attention` for every step of the decoder."""

    common: Common
    steps: list[Attention]

    def __init__(self, common: Common) -> None:
        self.common = common

    def forward(self, hs_enc: Array, hs_dec: Array) -> Array:
        contexts = np.empty_like(hs_dec)
        self.steps = []
        for t in range(hs_dec.shape[1]):
            step = Attention(self.common.Softmax())
            contexts[:, t, :] = step.forward(hs_enc, hs_dec[:, t, :])
            self.steps.append(step)
        return contexts

    def backward(self, dcontexts: Array) -> tuple[Array, Array]:
        denc: Any = 0
        ddec = np.empty_like(dcontexts)
        for t, step in enumerate(self.steps):
            dhs, ddec[:, t, :] = step.backward(dcontexts[:, t, :])
            denc += dhs
        return denc, ddec


# programs


class Reading:
    """Chapters 5 and 6: SGD on a text, then the perplexity of another."""

    common: Common
    model: Rnnlm
    sizes: Sequence[int]
    max_grad: float | None
    text: Ids
    other: Ids | None
    optimizer: Any
    trainer: Any
    fit: Callable[[int], list[float]]
    time_idx: int

    def __init__(
        self,
        common: Common,
        model: Rnnlm,
        *,
        sizes: Sequence[int],
        lr: float,
        max_grad: float | None = None,
        evaluated: int = 0,
        own_loop: bool = False,
    ) -> None:
        """`sizes`: N, T, V and the number of steps; `evaluated`: blocks of 10 times 35 tokens."""
        N, T, V, steps = sizes
        self.common, self.model, self.sizes, self.max_grad = common, model, sizes, max_grad
        self.text = problems.token_ids(V, (N * T * steps + N,))
        self.other = self.text[-(350 * evaluated + 1) :] if evaluated else None
        self.optimizer = common.SGD(lr)
        self.trainer = common.RnnlmTrainer(model, self.optimizer)
        self.fit, self.time_idx = self.loop if own_loop else self.train, 0

    def epoch(self, interval: int) -> list[float]:
        losses = self.fit(interval)
        if self.other is not None:
            self.model.reset_state()
            losses.append(float(np.log(self.common.eval_perplexity(self.model, self.other))))
            self.model.reset_state()
        return losses

    def train(self, interval: int) -> list[float]:
        N, T, *_ = self.sizes
        xs, ts, max_grad = self.text[:-1], self.text[1:], self.max_grad
        self.trainer.fit(xs, ts, 1, N, T, max_grad=max_grad, eval_interval=interval)
        return [float(np.log(perplexity)) for perplexity in self.trainer.ppl_list]

    def loop(self, _interval: int) -> list[float]:
        N, T, _, steps = self.sizes
        xs, ts = self.text[:-1], self.text[1:]
        offsets = [n * (len(xs) // N) for n in range(N)]
        losses = []
        for _ in range(steps):
            batch_x, batch_t = np.empty((N, T), dtype="i"), np.empty((N, T), dtype="i")
            for t in range(T):
                for n, offset in enumerate(offsets):
                    batch_x[n, t] = xs[(offset + self.time_idx) % len(xs)]
                    batch_t[n, t] = ts[(offset + self.time_idx) % len(xs)]
                self.time_idx += 1
            losses.append(self.model.forward(batch_x, batch_t))
            self.model.backward()
            self.optimizer.update(self.model.params, self.model.grads)
        return losses


class Answering:
    """Chapters 7 and 8: Adam on questions with answers, then how many of others are right."""

    common: Common
    model: Seq2seq
    N: int
    training: tuple[Ids, Ids]
    test: tuple[Ids, Ids]
    characters: dict[int, str]
    trainer: Any

    def __init__(
        self,
        common: Common,
        model: Seq2seq,
        data: tuple[Ids, Ids],
        *,
        N: int,
        steps: int,
    ) -> None:
        """The questions of so many steps train, those behind them are evaluated."""
        self.common, self.model, self.N = common, model, N
        questions, answers = data
        count = N * steps
        self.training, self.test = (
            (questions[rows], answers[rows]) for rows in (slice(count), slice(count, None))
        )
        self.characters = {k: chr(ord("0") + k) for k in range(problems.DATES_VOCABULARY)}
        self.trainer = common.Trainer(model, common.Adam())

    def epoch(self, interval: int) -> list[float]:
        before = len(self.trainer.loss_list)
        self.trainer.fit(
            *self.training, max_epoch=1, batch_size=self.N, max_grad=5.0, eval_interval=interval
        )
        right = 0
        questions, answers = self.test
        for k in range(len(questions)):
            right += self.common.eval_seq2seq(
                self.model, questions[[k]], answers[[k]], self.characters, k < 10
            )
        return [*self.trainer.loss_list[before:], right / max(len(questions), 1)]


def simple(common: Common, steps: int, own_loop: bool) -> Reading:
    model = Rnnlm(common, 418, 100, 100, "rnn")
    return Reading(common, model, sizes=(10, 5, 418, steps), lr=0.1, own_loop=own_loop)


def rnnlm(common: Common, steps: int, evaluated: int, H: int = 100) -> Reading:
    model = Rnnlm(common, 10000, H, H)
    sizes = 20, 35, 10000, steps
    return Reading(common, model, sizes=sizes, lr=20.0, max_grad=0.25, evaluated=evaluated)


def better(common: Common, steps: int, evaluated: int, H: int = 650) -> Reading:
    model = BetterRnnlm(common, 10000, H, H)
    sizes = 20, 35, 10000, steps
    return Reading(common, model, sizes=sizes, lr=20.0, max_grad=0.25, evaluated=evaluated)


def addition(common: Common, steps: int, evaluated: int, peeky: bool, N: int = 128) -> Answering:
    model = (PeekySeq2seq if peeky else Seq2seq)(common, problems.ADDITION_VOCABULARY, 16, 128)
    return Answering(common, model, problems.addition(N * steps + evaluated), N=N, steps=steps)


def dates(common: Common, steps: int, evaluated: int = 0, N: int = 128, H: int = 256) -> Answering:
    model = AttentionSeq2seq(common, problems.DATES_VOCABULARY, 16, H)
    return Answering(common, model, problems.dates(N * steps + evaluated), N=N, steps=steps)
