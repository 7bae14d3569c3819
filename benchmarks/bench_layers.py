"""Forward and backward of one recurrent layer, float32. Time unit and machine: see the table.

N batch rows, T time steps, D input size, H hidden size.
"""

import numpy as np
import pytest

import rnnfast

SHAPES = [(1, 25, 65, 100), (10, 5, 100, 100), (20, 35, 100, 100), (50, 50, 128, 128)]
TORCH_GATES = {"rnn": [0], "lstm": [2, 0, 1, 3]}  # torch's i, f, g, o out of our f, g, i, o


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_forward_backward(benchmark, contestant, cell, shape):
    benchmark.group = f"{cell} forward+backward N,T,D,H = {shape}"
    weights, xs, dhs = _problem(cell, *shape)
    step = _torch_step if contestant == "torch" else _our_step
    run = step(contestant, cell, weights, xs, dhs)
    expected = _our_step("numpy", cell, weights, xs, dhs)()
    for ours, theirs in zip(run(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())
    benchmark(run)


def _problem(cell, N, T, D, H):
    rng = np.random.default_rng(0)
    G = len(TORCH_GATES[cell])
    shapes = [(D, G * H), (H, G * H), (G * H,), (N, T, D), (N, T, H)]
    Wx, Wh, b, xs, dhs = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return (Wx / np.float32(D**0.5), Wh / np.float32(H**0.5), b), xs, dhs


def _our_step(contestant, cell, weights, xs, dhs):
    module = rnnfast if contestant == "rnnfast" else rnnfast.reference
    layer = {"rnn": module.TimeRNN, "lstm": module.TimeLSTM}[cell](*weights)

    def run():
        hs = layer.forward(xs)
        return hs, layer.backward(dhs), *layer.grads

    return run


def _torch_step(_, cell, weights, xs, dhs):
    import torch

    H = dhs.shape[2]
    layer = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM}[cell](xs.shape[2], H, batch_first=True)
    order = TORCH_GATES[cell]

    def reorder(W, gates):
        """Permute blocks of H along the last axis."""
        return np.concatenate([np.split(W, len(gates), axis=-1)[k] for k in gates], axis=-1)

    Wx, Wh, b = (torch.tensor(reorder(W, order).T.copy()) for W in weights)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(Wx)
        layer.weight_hh_l0.copy_(Wh)
        layer.bias_ih_l0.copy_(b)
        layer.bias_hh_l0.zero_()
    x, dh = torch.tensor(xs, requires_grad=True), torch.tensor(dhs)
    back = np.argsort(order)
    parameters = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0)

    def run():
        x.grad = None
        layer.zero_grad()
        hs, _ = layer(x)
        hs.backward(dh)
        grads = (reorder(W.grad.numpy().T, back) for W in parameters)
        return hs.detach().numpy(), x.grad.numpy(), *grads

    return run
