"""A training step of a language model (embedding, cell, affine, loss, SGD), float32.

N batch rows, T time steps, V vocabulary size, D embedding size, H hidden size.
"""

import numpy as np
import pytest

import rnnfast

CONFIGURATIONS = [("rnn", 10, 5, 418, 100, 100), ("lstm", 50, 50, 65, 64, 128)]
LEARNING_RATE = 0.1
STEPS_CHECKED = 3


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_training_step(benchmark, contestant, configuration):
    benchmark.group = f"training step cell,N,T,V,D,H = {configuration}"
    rng = np.random.default_rng(1)
    _, N, T, V, _, _ = configuration
    xs, ts = rng.integers(0, V, (2, N, T))
    make = _torch_step if contestant == "torch" else _our_step
    step, twin = make(contestant, configuration, xs, ts), _our_step("numpy", configuration, xs, ts)
    for _ in range(STEPS_CHECKED):
        assert step() == pytest.approx(twin(), rel=1e-4)
    benchmark(step)


def _our_step(contestant, configuration, xs, ts):
    cell, _, _, *sizes = configuration
    model_class = {"rnn": rnnfast.SimpleRnnlm, "lstm": rnnfast.Rnnlm}[cell]
    ops = {} if contestant == "rnnfast" else {"ops": rnnfast.reference.ops}
    model = model_class(*sizes, rng=np.random.default_rng(0), **ops)
    optimizer = rnnfast.SGD(LEARNING_RATE)

    def step():
        model.reset_state()
        loss = model.forward(xs, ts)
        model.backward()
        optimizer.update(model.params, model.grads)
        return loss

    return step


def _torch_step(_, configuration, xs, ts):
    import torch

    cell, _, _, V, D, H = configuration
    source = {"rnn": rnnfast.SimpleRnnlm, "lstm": rnnfast.Rnnlm}[cell](
        V, D, H, rng=np.random.default_rng(0)
    )
    embed_W, Wx, Wh, _, affine_W, _ = source.params
    if cell == "lstm":
        Wx, Wh = (
            np.concatenate([np.split(W, 4, axis=1)[k] for k in (2, 0, 1, 3)], axis=1)
            for W in (Wx, Wh)  # torch's gates i, f, g, o out of our f, g, i, o
        )
    embedding, affine = torch.nn.Embedding(V, D), torch.nn.Linear(H, V)
    layer = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM}[cell](D, H, batch_first=True)
    with torch.no_grad():
        embedding.weight.copy_(torch.tensor(embed_W))
        layer.weight_ih_l0.copy_(torch.tensor(Wx.T.copy()))
        layer.weight_hh_l0.copy_(torch.tensor(Wh.T.copy()))
        affine.weight.copy_(torch.tensor(affine_W.T.copy()))
        for b in (layer.bias_ih_l0, layer.bias_hh_l0, affine.bias):
            b.zero_()
    layer.bias_hh_l0.requires_grad_(False)  # the textbook's layer has one bias
    parameters = [*embedding.parameters(), *layer.parameters(), *affine.parameters()]
    optimizer = torch.optim.SGD([p for p in parameters if p.requires_grad], LEARNING_RATE)
    inputs, targets = torch.tensor(xs), torch.tensor(ts).reshape(-1)

    def step():
        optimizer.zero_grad()
        logits = affine(layer(embedding(inputs))[0]).reshape(-1, V)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
