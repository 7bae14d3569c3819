"""Encoders with decoders against PyTorch's modules, in float64, where it is installed."""

from functools import partial

import numpy as np
import pytest
from problems import assert_all_close
from test_seq2seq import LENGTHS, batch, every_model, make, padded

import rnnfast
from rnnfast import kernels
from rnnfast.reference import ops as numpy_ops

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is one of three oracles")


def lstm_columns(W):
    """f, g, i, o in PyTorch's order i, f, g, o"""
    f, g, i, o = W.chunk(4, dim=-1)
    return torch.cat([i, f, g, o], dim=-1)


def gru_columns(W):
    """z, r, h as r, z, n; its z is 1 - z"""
    z, r, h = W.chunk(3, dim=-1)
    return torch.cat([r, -z, h], dim=-1)


MODULES = {
    "rnn": (torch.nn.RNN, lambda W: W),
    "rnn_relu": (partial(torch.nn.RNN, nonlinearity="relu"), lambda W: W),
    "lstm": (torch.nn.LSTM, lstm_columns),
    "gru_reset_after": (torch.nn.GRU, gru_columns),
}


def run(cell, params, part, xs, h=None):
    """All h of a recurrent module from the first one, None being zeros."""
    make_module, columns = MODULES[cell]
    of = {
        name.rpartition(".")[2]: columns(W)
        for name, W in params.items()
        if name.startswith(f"{part}.recurrent")
    }
    bh = of.get("bh", torch.zeros_like(of["b"]))
    module = make_module(len(of["Wx"]), len(of["Wh"]), batch_first=True)
    names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
    weights = of["Wx"].T, of["Wh"].T, of["b"], bh
    h = torch.zeros(1, len(xs), len(of["Wh"]), dtype=xs.dtype) if h is None else h[None]
    start = (h, torch.zeros_like(h)) if cell == "lstm" else h
    hs, _ = torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (xs, start))
    return hs


def loss_of_row(Model, cell, params, xs, ts):
    """Sum of the cross entropy of one question and its answer, and how many targets count."""
    h = torch.zeros(1, len(params["encoder.recurrent.Wh"]), dtype=torch.float64)
    if len(xs):
        hs = run(cell, params, "encoder", params["encoder.embedding.W"][xs][None])
        h = hs[:, -1]
    inputs = params["decoder.embedding.W"][ts[:-1].clip(min=0)][None]
    peeked = h[:, None].expand(-1, len(ts) - 1, -1)
    if Model is rnnfast.PeekySeq2seq:
        inputs = torch.cat([peeked, inputs], dim=2)
    outputs = run(cell, params, "decoder", inputs, h)
    if Model is rnnfast.PeekySeq2seq:
        outputs = torch.cat([peeked, outputs], dim=2)
    if Model is rnnfast.AttentionSeq2seq:
        contexts = torch.zeros_like(outputs)
        if len(xs):
            contexts = (outputs @ hs.mT).softmax(dim=2) @ hs
        outputs = torch.cat([contexts, outputs], dim=2)
    logits = outputs[0] @ params["decoder.affine.W"] + params["decoder.affine.b"]
    targets = torch.tensor(ts[1:])
    loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    return loss, int((ts[1:] >= 0).sum())


@every_model
@pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["compiled", "numpy"])
@pytest.mark.parametrize("cell", MODULES)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "padded"])
def test_loss_and_gradients(Model, cell, ops, whole):
    """Row by row: PyTorch gets no padding at all."""
    model, (xs, ts) = make(Model, cell=cell, ops=ops), batch() if whole else padded()
    lengths = None if whole else LENGTHS
    found = {"loss": np.array(model.forward(xs, ts, lengths=lengths))}
    model.backward()
    found |= model.named_grads()

    params = {name: torch.tensor(W, requires_grad=True) for name, W in model.named_params().items()}
    steps = [xs.shape[1]] * len(xs) if lengths is None else lengths
    rows = [
        loss_of_row(Model, cell, params, question[:n], answer)
        for question, answer, n in zip(xs, ts, steps, strict=True)
    ]
    loss = sum(total for total, _ in rows) / sum(count for _, count in rows)
    loss.backward()
    expected = {name: W.grad.numpy() for name, W in params.items()}
    assert_all_close(found, expected | {"loss": loss.detach().numpy()}, 1e-10)
