"""How the textbook's reader trains and evaluates: optimizers that make new arrays, loops of Python
over the tokens of a batch, tied weights found by comparing numbers. Written anew, see
`textbook_peer`.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._types import Array, Ids


class SGD:
    lr: float

    def __init__(self, lr: float = 0.01) -> None:
        self.lr = lr

    def update(self, params: list[Array], grads: list[Array]) -> None:
        for W, dW in zip(params, grads, strict=True):
            W -= self.lr * dW


class Adam:
    lr: float
    beta1: float
    beta2: float
    steps: int
    m: list[Array]
    v: list[Array]

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.lr, self.beta1, self.beta2 = lr, beta1, beta2
        self.steps = 0

    def update(self, params: list[Array], grads: list[Array]) -> None:
        if not self.steps:
            self.m, self.v = ([np.zeros_like(W) for W in params] for _ in range(2))
        self.steps += 1
        corrections = np.sqrt(1 - self.beta2**self.steps) / (1 - self.beta1**self.steps)
        lr = float(self.lr * corrections)
        for W, dW, m, v in zip(params, grads, self.m, self.v, strict=True):
            m += (1 - self.beta1) * (dW - m)
            v += (1 - self.beta2) * (dW**2 - v)
            W -= lr * m / (np.sqrt(v) + 1e-7)


def clip_grads(grads: list[Array], max_norm: float) -> None:
    norm = np.sqrt(sum(np.sum(dW**2) for dW in grads))
    rate = float(max_norm / (norm + 1e-6))
    if rate < 1:
        for dW in grads:
            dW *= rate


def remove_duplicate(params: list[Array], grads: list[Array]) -> tuple[list[Array], list[Array]]:
    """Each parameter once, with the sum of its gradients."""
    params, grads = params[:], grads[:]
    i = 0
    while i < len(params):
        j = i + 1
        while j < len(params):
            W, other = params[i], params[j]
            tied = W.ndim == other.ndim == 2 and W.T.shape == other.shape and np.all(other == W.T)
            if W is other or tied:
                grads[i] += grads[j].T if tied else grads[j]
                del params[j], grads[j]
            else:
                j += 1
        i += 1
    return params, grads


class Loop:
    """Steps, and a line for every so many of them."""

    model: Any
    optimizer: Any
    started: float
    losses: Array

    def __init__(self, model: Any, optimizer: Any) -> None:
        self.model, self.optimizer = model, optimizer
        self.started, self.losses = time.time(), np.zeros(2)

    def step(self, xs: Ids, ts: Ids, max_grad: float | None) -> None:
        loss = self.model.forward(xs, ts)
        self.model.backward()
        params, grads = remove_duplicate(self.model.params, self.model.grads)
        if max_grad is not None:
            clip_grads(grads, max_grad)
        self.optimizer.update(params, grads)
        self.losses += loss, 1

    def mean_loss(self, step: int, steps: int) -> float:
        total, count = self.losses
        mean = float(total / count)
        print(f"step {step + 1} of {steps}, {time.time() - self.started:.0f} s, loss {mean:.2f}")
        self.losses[:] = 0
        return mean


class Trainer(Loop):
    loss_list: list[float]

    def __init__(self, model: Any, optimizer: Any) -> None:
        super().__init__(model, optimizer)
        self.loss_list = []

    def fit(
        self,
        x: Ids,
        t: Ids,
        max_epoch: int = 10,
        batch_size: int = 32,
        max_grad: float | None = None,
        eval_interval: int = 20,
    ) -> None:
        steps = len(x) // batch_size
        for _ in range(max_epoch):
            order = np.random.permutation(np.arange(len(x)))
            x, t = x[order], t[order]
            for k in range(steps):
                rows = slice(k * batch_size, (k + 1) * batch_size)
                self.step(x[rows], t[rows], max_grad)
                if k % eval_interval == 0:
                    self.loss_list.append(self.mean_loss(k, steps))


class RnnlmTrainer(Loop):
    time_idx: int = 0
    ppl_list: list[float]

    def get_batch(self, x: Ids, t: Ids, batch_size: int, time_size: int) -> tuple[Ids, Ids]:
        batch_x = np.empty((batch_size, time_size), dtype="i")
        batch_t = np.empty((batch_size, time_size), dtype="i")
        size, jump = len(x), len(x) // batch_size
        for column in range(time_size):
            for row in range(batch_size):
                batch_x[row, column] = x[(row * jump + self.time_idx) % size]
                batch_t[row, column] = t[(row * jump + self.time_idx) % size]
            self.time_idx += 1
        return batch_x, batch_t

    def fit(
        self,
        xs: Ids,
        ts: Ids,
        max_epoch: int = 10,
        batch_size: int = 20,
        time_size: int = 35,
        max_grad: float | None = None,
        eval_interval: int = 20,
    ) -> None:
        self.time_idx, self.ppl_list = 0, []
        steps = len(xs) // (batch_size * time_size)
        for _ in range(max_epoch):
            for k in range(steps):
                self.step(*self.get_batch(xs, ts, batch_size, time_size), max_grad)
                if k % eval_interval == 0:
                    self.ppl_list.append(float(np.exp(self.mean_loss(k, steps))))


def eval_perplexity(model: Any, corpus: Ids, batch_size: int = 10, time_size: int = 35) -> float:
    size, jump = len(corpus), (len(corpus) - 1) // batch_size
    blocks, total = (size - 1) // (batch_size * time_size), 0.0
    for block in range(blocks):
        xs = np.zeros((batch_size, time_size), dtype=np.int32)
        ts = np.zeros((batch_size, time_size), dtype=np.int32)
        for t in range(time_size):
            for n in range(batch_size):
                place = block * time_size + n * jump + t
                xs[n, t], ts[n, t] = corpus[place % size], corpus[(place + 1) % size]
        try:
            total += model.forward(xs, ts, train_flg=False)
        except TypeError:  # which the model of one layer raises: it knows no such argument
            total += model.forward(xs, ts)
        print(f"\r{block} / {blocks}", end="", flush=True)
    return float(np.exp(total / blocks))


def eval_seq2seq(
    model: Any, question: Ids, correct: Ids, id_to_char: Mapping[int, str], verbos: bool = False
) -> int:
    ids = correct.flatten()
    guess = model.generate(question, ids[0], len(ids) - 1)
    asked, target, answer = (
        "".join([id_to_char[int(k)] for k in row]) for row in (question.flatten(), ids[1:], guess)
    )
    if verbos:
        print(f"Q {asked}\nT {target}\n{'right' if target == answer else 'wrong'} {answer}\n---")
    return int(target == answer)
