"""What PyTorch does, with the weights of this package."""

import numpy as np
import torch

from ..reference.ops import draw
from . import problems

ORDER = {"rnn": [0], "lstm": [2, 0, 1, 3]}  # PyTorch's i, f, g, o out of our f, g, i, o


def reordered(W, order):
    """Gates, blocks of the last axis, in another order."""
    parts = np.split(W, len(order), -1)
    return np.concatenate([parts[k] for k in order], -1)


def recurrent(cell, Wx, Wh, b):
    """`torch.nn.RNN` or `LSTM`; the textbook's layer has one bias, so the second is fixed at 0."""
    order, (D, H) = ORDER[cell], (len(Wx), len(Wh))
    kind = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM}[cell]
    layer = kind(D, H, batch_first=True, dtype=torch.from_numpy(Wx).dtype)
    with torch.no_grad():
        layer.weight_ih_l0[...] = torch.from_numpy(reordered(Wx, order).T)
        layer.weight_hh_l0[...] = torch.from_numpy(reordered(Wh, order).T)
        layer.bias_ih_l0[...] = torch.from_numpy(reordered(b, order))
        layer.bias_hh_l0[...] = 0
    layer.bias_hh_l0.requires_grad_(False)
    return layer


def parameters(layer):
    """Those of `recurrent` that are trained."""
    return layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0


def textbook_layout(tensors, cell):
    """Parameters, or their gradients, as arrays in the layout of this package."""
    back = np.argsort(ORDER[cell])
    return [reordered(W.numpy().T, back) for W in tensors]


class Layer:
    def __init__(self, threads, *, cell, dtype, shape, way):
        torch.set_num_threads(threads)
        xs, weights, dhs = problems.layer(cell, dtype, shape)
        self.layer, self.cell = recurrent(cell, *weights), cell
        self.xs = torch.from_numpy(xs).requires_grad_(way == "both")
        self.dhs = torch.from_numpy(dhs)
        self.run = getattr(self, way)

    def forward(self):
        with torch.no_grad():
            return self.layer(self.xs)[0]

    def both(self):
        self.layer.zero_grad(set_to_none=True)
        self.xs.grad = None
        hs, _ = self.layer(self.xs)
        hs.backward(self.dhs)
        return hs

    def results(self):
        hs = self.run().detach().numpy()
        if self.xs.grad is None:
            return [hs]
        grads = textbook_layout([W.grad for W in parameters(self.layer)], self.cell)
        return [hs, self.xs.grad.numpy(), *grads]


class LanguageModel(torch.nn.Module):
    def __init__(self, cell, V, D, H):
        super().__init__()
        embed_W, Wx, Wh, b, W, affine_b = problems.language_model(cell, V, D, H).params
        self.embedding, self.affine = torch.nn.Embedding(V, D), torch.nn.Linear(H, V)
        self.recurrent, self.cell = recurrent(cell, Wx, Wh, b), cell
        with torch.no_grad():
            self.embedding.weight[...] = torch.from_numpy(embed_W)
            self.affine.weight[...] = torch.from_numpy(W.T)
            self.affine.bias[...] = torch.from_numpy(affine_b)

    def forward(self, ids, state):
        hs, state = self.recurrent(self.embedding(ids), state)
        return self.affine(hs), state

    @torch.no_grad()
    def textbook_params(self):
        """The parameters as arrays, in the order and layout of this package."""
        embedding, affine = self.embedding.weight, self.affine
        recurrent = textbook_layout(parameters(self.recurrent), self.cell)
        return [embedding.numpy(), *recurrent, affine.weight.numpy().T, affine.bias.numpy()]


class Training:
    def __init__(self, threads, *, cell, N, T, V, D, H):
        torch.set_num_threads(threads)
        self.model = LanguageModel(cell, V, D, H)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, problems.LEARNING_RATE)
        self.blocks = [tuple(map(torch.from_numpy, pair)) for pair in problems.blocks(N, T, V)]
        self.steps, self.state = 0, None

    def run(self):
        xs, ts = self.blocks[self.steps % len(self.blocks)]
        self.steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        logits, state = self.model(xs, self.state)
        self.state = (
            tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        )
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ts.flatten())
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def results(self):
        return [np.array([self.run() for _ in range(4)], "f"), *self.model.textbook_params()]


class Generation:
    """One token at a time, drawn by `torch.multinomial`."""

    def __init__(self, threads, *, V, D, H, length):
        torch.set_num_threads(threads)
        self.model, self.length = LanguageModel("lstm", V, D, H).eval(), length

    def run(self):
        self._generate(lambda logits: torch.multinomial(torch.softmax(logits, 0), 1))

    def results(self):
        """Drawn from PyTorch's logits with the random numbers that rnnfast uses."""
        uniforms = iter(np.random.default_rng(0).random(self.length))

        def sample(logits):
            return torch.tensor([draw(logits.numpy().astype(np.float64), 1.0, next(uniforms))])

        return [self._generate(sample)]

    @torch.no_grad()
    def _generate(self, sample):
        token, state = torch.zeros(1, dtype=torch.int64), None
        ids = np.empty(self.length, np.int64)
        for k in range(self.length):
            logits, state = self.model(token[None], state)
            token = sample(logits[0, 0])
            ids[k] = token.item()
        return ids


class Embedding:
    def __init__(self, threads, *, V, D, tokens):
        torch.set_num_threads(threads)
        W, ids, dxs = problems.embedding(V, D, tokens)
        self.W = torch.from_numpy(W).requires_grad_()
        self.xs = torch.nn.functional.embedding(torch.from_numpy(ids), self.W)
        self.dxs = torch.from_numpy(dxs)

    def run(self):
        return torch.autograd.grad(self.xs, self.W, self.dxs, retain_graph=True)[0]

    def results(self):
        return [self.run().numpy()]


class Product:
    def __init__(self, threads, *, size):
        torch.set_num_threads(threads)
        self.A, self.B = map(torch.from_numpy, problems.matrices(size))
        self.C = torch.empty_like(self.A)

    def run(self):
        return torch.mm(self.A, self.B, out=self.C)

    def results(self):
        return [self.run().numpy()]
