"""What a user's program looks like to a type checker: `mypy --strict` passes, and it runs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import rnnfast


class Scale(rnnfast.Layer):
    """A layer of one's own: every number times w."""

    def __init__(self, w: NDArray[np.float32]) -> None:
        super().__init__(w=w)
        self.xs: NDArray[np.float32] | None = None

    def forward(self, xs: NDArray[np.float32]) -> NDArray[np.float32]:
        self.xs = xs
        return xs * self.params[0]

    def backward(self, dout: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self.xs is not None
        self.grads[0][...] = (dout * self.xs).sum(axis=(0, 1))
        return dout * self.params[0]


class Watching(rnnfast.Callback):
    """Keeps the perplexity of every epoch."""

    def __init__(self) -> None:
        self.perplexities: list[float | None] = []

    def on_epoch(self, trainer: rnnfast.Trainer, record: Any, improved: bool) -> None:
        self.perplexities.append(record.valid_perplexity)


def regression(rng: np.random.Generator) -> float:
    """Layers by hand, then in a network with a layer of one's own."""
    xs = rng.standard_normal((2, 5, 3)).astype(np.float32)
    Wx, Wh = (rng.standard_normal((n, 16)).astype(np.float32) for n in (3, 4))
    lstm = rnnfast.TimeLSTM(Wx, Wh, np.zeros(16, np.float32), stateful=True)
    loss_layer: rnnfast.Layer = rnnfast.TimeSquaredLoss()
    loss: float = loss_layer.forward(lstm.forward(xs), np.zeros((2, 5, 4)))
    dxs: NDArray[np.float32] = lstm.backward(loss_layer.backward())
    layers: list[rnnfast.Layer] = [lstm, Scale(np.ones(4, np.float32))]
    network, optimizer = rnnfast.Network(layers, loss_layer), rnnfast.Adam(0.01)
    loss += network.forward(xs, np.zeros((2, 5, 4)))
    network.backward()
    rnnfast.clip_grads(network.grads, 1.0)
    optimizer.update(network.params, network.grads)
    network.backward(sparse=True)
    rows = network.grad_rows()
    rnnfast.clip_values(network.grads, 1.0, rows=rows)
    rnnfast.AdamW(0.01, lazy=True).update(network.params, network.grads, rows)
    return loss + float(dxs.sum()) + sum(float(W.sum()) for W in network.named_params().values())


def stacked(rng: np.random.Generator) -> float:
    """Two layers, of sizes and of arrays."""
    stack = rnnfast.TimeStack("gru", 3, 4, 2, dropout=0.5, reset_after=True, init="keras", rng=rng)
    again = rnnfast.TimeStack.from_weights("gru", stack.params, reset_after=True)
    hs: NDArray[np.float32] = again.forward(rng.standard_normal((2, 5, 3)), lengths=[5, 3])
    dxs: NDArray[np.float32] = again.backward(hs, dh=again.h)
    return float(dxs.sum()) + stack.dropout


def sequences(rng: np.random.Generator) -> float:
    """Rows of their own lengths, read in both directions by layers that drop out in training."""
    xs = rng.standard_normal((2, 5, 3)).astype(np.float32)
    Wx, Wh, b = (rng.standard_normal(s).astype(np.float32) for s in ((3, 12), (4, 12), 12))
    gru = rnnfast.TimeGRU(Wx, Wh, b, reset_after=True, reverse=True, zoneout=0.1, rng=0)
    both = rnnfast.TimeBiGRU(Wx, Wh, b, Wx, Wh, b, weight_drop=0.5, precision="bfloat16")
    hs: NDArray[np.float32] = gru.forward(xs, lengths=[5, 3], need_gradient=False)
    hs = np.concatenate((hs, both.forward(xs, reset=np.zeros((2, 5), bool))), axis=2)
    both.backward(hs[..., 4:], dh=np.ones((2, 2, 4)))
    affine = rnnfast.TimeAffine(Wx, b, precision=both.precision)
    assert (affine.precision, gru.precision) == ("bfloat16", "float32")
    return float(hs.sum()) + float(both.hs.sum()) + both.weight_drop


def attending(rng: np.random.Generator) -> float:
    """A decoder's states that look at an encoder's, with dropout; labels that are 0 or 1."""
    hs_enc, hs_dec = (rng.standard_normal((2, steps, 4)).astype(np.float32) for steps in (5, 3))
    attention, dropout = rnnfast.Attention(), rnnfast.TimeDropout(0.5, locked=True, rng=rng)
    contexts: NDArray[np.float32] = attention.forward(hs_enc, hs_dec, lengths=[5, 2])
    loss_layer = rnnfast.TimeSigmoidWithLoss(ignore_label=-1)
    loss: float = loss_layer.forward(dropout.forward(contexts), np.ones((2, 3, 4), int))
    denc, ddec = attention.backward(dropout.backward(loss_layer.backward()))
    dropout.rate = dropout.rate / 2
    return loss + float(denc.sum()) + float(ddec.sum()) + float(attention.weights.sum())


def writing(text: str) -> str:
    """A language model, trained, evaluated, and made to write."""
    vocabulary = rnnfast.Vocabulary.from_text(text)
    train, valid, test = rnnfast.split_by_position(vocabulary.encode(text))
    settings = rnnfast.Settings(precision="bfloat16")
    model = rnnfast.Rnnlm(len(vocabulary), 8, 16, precision=settings.precision, rng=0)
    schedule = rnnfast.CosineLR(warmup=0.1, final=0.1)
    trainer = rnnfast.Trainer(
        model, rnnfast.SGD(1.0), train, valid, batch_size=4, time_size=10, schedule=schedule
    )
    trainer.fit(2, callbacks=[Watching()])
    assert trainer.validated_params()["embedding.W"] is model.named_params()["embedding.W"]
    loss: float = rnnfast.evaluate(model, test, batch_size=1, time_size=10)
    model.reset_state()
    inputs, targets = rnnfast.lanes(test, 2)
    perplexity = np.exp(model.forward(inputs, targets, need_gradient=False))
    prime, stop = vocabulary.encode("the "), vocabulary.encode(".")
    ids = rnnfast.generate(model, prime, 20, temperature=0.8, rng=0)
    several = rnnfast.generate(model, prime, 20, top_k=5, samples=3, stop_ids=stop, rng=0)
    likeliest = several[rnnfast.log_probabilities(model, prime, several).sum(1).argmax()]
    for part in rnnfast.stream(model, prime, 20, top_p=0.9, rng=0):
        print(vocabulary.decode(part), end="")
    print(vocabulary.decode(likeliest[likeliest >= 0]))
    gain = rnnfast.unigram_entropy(test) - loss
    return f"{gain:.3f} nats, perplexity {perplexity:.2f}: {vocabulary.decode(ids)}"


def answering() -> float:
    """An encoder and a decoder that learn sums, and answer with beam search."""
    vocabulary = rnnfast.Vocabulary("0123456789+ _", "char")
    questions, answers = rnnfast.addition_pairs(40, digits=1, rng=0)
    xs = vocabulary.encode("".join(questions)).reshape(40, 3)
    ts = vocabulary.encode("".join(f"_{answer:2}" for answer in answers)).reshape(40, 3)
    model = rnnfast.PeekySeq2seq(len(vocabulary), 8, 16, cell="gru", rng=0)
    assert rnnfast.Rnnlm(9, 4, 4, precision=model.precision).precision == model.precision
    losses: list[float] = rnnfast.train_pairs(model, rnnfast.Adam(0.01), xs, ts, epochs=5, rng=0)
    ids: NDArray[np.int64] = model.generate(xs, 12, 2, stop_id=11)
    best, scores = model.generate(xs, 12, 2, lengths=[3] * 40, beams=4, return_scores=True)
    right = rnnfast.right_answers(model, xs, ts, stop_id=11)
    return losses[-1] + float(right.mean() + scores.mean()) + int((ids == best).sum())


if __name__ == "__main__":
    print(regression(np.random.default_rng(0)), sequences(np.random.default_rng(0)))
    print(stacked(np.random.default_rng(0)), attending(np.random.default_rng(0)))
    print(answering())
    print(writing("the quick brown fox jumps over the lazy dog.\n" * 40))
    print(rnnfast.build_info()["threads"], rnnfast.get_num_threads())
