"""Forward and backward against numbers that were computed once, by PyTorch 2.13's autograd.

The program, whose inputs are closed formulas and so never change:

import torch

def wave(k, *shape):
    n = torch.arange(1, 1 + torch.tensor(shape).prod(), dtype=torch.float64)
    return torch.sin(k * n).reshape(shape).requires_grad_()

def results(cell, G, N=2, T=3, D=3, H=2):
    xs, Wx, Wh, b = wave(1.1, N, T, D), wave(1.3, D, G * H), wave(1.7, H, G * H), wave(1.9, G * H)
    h0, c0, dhs = wave(2.3, N, H), wave(2.9, N, H), wave(3.1, N, T, H)
    dh, dc = wave(3.7, N, H), wave(4.1, N, H)
    h, c, hs = h0, c0, []
    for t in range(T):
        a = xs[:, t] @ Wx + h @ Wh + b
        if cell == "rnn":
            h = torch.tanh(a)
        else:
            f, g, i, o = a.chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.tanh(g) * torch.sigmoid(i)
            h = torch.sigmoid(o) * torch.tanh(c)
        hs.append(h)
    hs = torch.stack(hs, dim=1)
    loss, outputs = (hs * dhs).sum() + (h * dh).sum(), {"hs": hs, "h": h}
    inputs = {"xs": xs, "Wx": Wx, "Wh": Wh, "b": b, "h0": h0}
    if cell == "lstm":
        loss, outputs, inputs = loss + (c * dc).sum(), outputs | {"c": c}, inputs | {"c0": c0}
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    return outputs | {f"d{name}": gradient for name, gradient in zip(inputs, gradients)}

def attention(N=2, S=4, T=3, H=2):
    enc, dec, dout = 3 * wave(1.1, N, S, H), wave(1.3, N, T, H), wave(1.7, N, T, H)
    used = torch.arange(S) < torch.tensor([4, 2])[:, None, None]
    weights = (dec @ enc.mT).masked_fill(~used, -torch.inf).softmax(dim=2)
    contexts = weights @ enc
    denc, ddec = torch.autograd.grad((contexts * dout).sum(), [enc, dec])
    return {"contexts": contexts, "weights": weights, "denc": denc, "ddec": ddec}

def sigmoid_loss(N=2, T=3, K=2):
    xs, ts = 9 * wave(1.9, N, T, K), (wave(2.3, N, T, K) > 0).double()
    p = torch.sigmoid(xs)
    loss = -(ts * p.log() + (1 - ts) * (1 - p).log()).mean()
    return {"loss": loss[None], "dxs": torch.autograd.grad(loss, xs)[0]}

def seq2seq(kind, V=5, D=3, H=2, xs=[[0, 4, 2], [3, 1, 0]], ts=[[4, 1, 2, 3], [4, 0, 3, -1]]):
    rows = {"peeky": (D + H, 2 * H), "attending": (D, 2 * H)}.get(kind, (D, H))
    shapes = [(V, D), (D, 4 * H), (H, 4 * H), (4 * H,)]
    shapes += [(V, D), (rows[0], 4 * H), (H, 4 * H), (4 * H,), (rows[1], V), (V,)]
    params = [wave(1.1 + k / 5, *shape) for k, shape in enumerate(shapes)]

    def read(x, Wx, Wh, b, h):
        c, hs = torch.zeros(H, dtype=torch.float64), []
        for x_t in x:
            f, g, i, o = (x_t @ Wx + h @ Wh + b).chunk(4)
            c = torch.sigmoid(f) * c + torch.tanh(g) * torch.sigmoid(i)
            h = torch.sigmoid(o) * torch.tanh(c)
            hs.append(h)
        return torch.stack(hs)

    losses = []
    for x, t, n in zip(xs, ts, [2, 3]):
        enc = read(params[0][x[:n]], *params[1:4], torch.zeros(H, dtype=torch.float64))
        peeked = enc[-1].expand(3, H)
        x = params[4][[max(k, 0) for k in t[:-1]]]
        x = torch.cat([peeked, x], 1) if kind == "peeky" else x
        out = read(x, *params[5:8], enc[-1])
        if kind != "plain":
            beside = peeked if kind == "peeky" else (out @ enc.T).softmax(1) @ enc
            out = torch.cat([beside, out], 1)
        logs = (out @ params[8] + params[9]).log_softmax(1)
        losses += [-logs[k, id] for k, id in enumerate(t[1:]) if id >= 0]
    loss = sum(losses) / len(losses)
    gradients = torch.cat([dW.flatten() for dW in torch.autograd.grad(loss, params)])
    return {"loss": loss[None], "grads": gradients}

both = {"rnn": results("rnn", 1), "lstm": results("lstm", 4)}
others = {"attention": attention(), "sigmoid_loss": sigmoid_loss()}
models = {kind: seq2seq(kind) for kind in ("plain", "peeky", "attending")}
for what, found in (both | others | models).items():
    for name, array in found.items():
        array = array.detach().flatten()
        numbers = array[0], array[-1], array.sum(), array.norm()
        print(what, name, *(f"{number:.15f}" for number in numbers))
"""

import numpy as np
import pytest
from problems import run_cell

import rnnfast
from rnnfast import kernels
from rnnfast.reference import ops as numpy_ops

# cell, array: its first and last entry, its sum, its norm
FROZEN = {
    ("rnn", "hs"): (0.993648342089369, -0.684745220376615, 1.274410419502227, 2.964654633580486),
    ("rnn", "h"): (0.995345359417067, -0.684745220376615, 0.347841328175986, 1.808276526202314),
    ("rnn", "dxs"): (-0.006639110123090, 0.157131060847391, -0.083780177131398, 0.461806477124780),
    ("rnn", "dWx"): (-0.143202023137897, -0.084282584802750, 0.229841080496434, 0.382615742975636),
    ("rnn", "dWh"): (0.079031655179561, -0.200669266002623, -0.136285423166020, 0.239126453348121),
    ("rnn", "db"): (0.157860610751252, -0.255753868305144, -0.097893257553892, 0.300549519347151),
    ("rnn", "dh0"): (0.004406610437885, -0.344024551267332, -0.077403789423957, 0.437404689901878),
    ("lstm", "hs"): (-0.092391332275950, 0.073313556703467, -1.249478562190832, 0.572195512666616),
    ("lstm", "h"): (-0.349747535748693, 0.073313556703467, -0.377598727218392, 0.367202653353087),
    ("lstm", "c"): (-0.425244836952115, 0.111641177084906, -0.559680228572056, 0.489385837809203),
    ("lstm", "dxs"): (-0.085110318981684, 0.098496285387006, 0.100619745303202, 1.065936794962823),
    ("lstm", "dWx"): (-0.031076826863511, -0.000522867278979, 0.660783623646428, 0.763775941248503),
    ("lstm", "dWh"): (0.002977782705118, -0.018434304937462, 0.134806605116531, 0.241184354089081),
    ("lstm", "db"): (0.158480075155649, 0.045021262722449, 0.144336338130406, 0.925092051594564),
    ("lstm", "dh0"): (0.105862944394146, 0.009967604689149, 0.171650842895611, 0.165778205253568),
    ("lstm", "dc0"): (-0.087069188277498, -0.047290510075052, 0.238254922816267, 0.291178193466811),
}
OTHERS = {
    ("attention", "contexts"): (
        2.797307871927648,
        0.015468317069606,
        0.662995979885774,
        6.711390108984858,
    ),
    ("attention", "weights"): (
        0.514304850175401,
        0.000000000000000,
        6.000000000000000,
        2.023061589811270,
    ),
    ("attention", "denc"): (
        0.883670897321647,
        0.000000000000000,
        0.930196460465451,
        3.506919290056304,
    ),
    ("attention", "ddec"): (
        0.097147434219560,
        5.304421453437407,
        4.843708518517863,
        5.976346356409763,
    ),
    ("sigmoid_loss", "loss"): (
        3.418428968163795,
        3.418428968163795,
        3.418428968163795,
        3.418428968163795,
    ),
    ("sigmoid_loss", "dxs"): (
        -0.000016671539441,
        -0.083209657253483,
        -0.072631338360751,
        0.215652094306642,
    ),
}
# The loss; of all gradients one behind the other, their first and last, their sum, their norm.
SEQ2SEQ = {
    "plain": (
        2.114751781387913,
        (-0.025772245182910, 0.367606354114245, 0.323681388343811, 0.778754670054342),
    ),
    "peeky": (
        2.019156995332819,
        (-0.170962965835135, 0.305708106015027, 0.128447038029316, 0.678276276704804),
    ),
    "attending": (
        1.951241961977168,
        (-0.124669791785165, 0.305638039249208, -0.024402825700622, 0.555081984951151),
    ),
}
CLASSES = {
    "plain": rnnfast.Seq2seq,
    "peeky": rnnfast.PeekySeq2seq,
    "attending": rnnfast.AttentionSeq2seq,
}
GATES = {"rnn": 1, "lstm": 4}


def wave(k, *shape):
    return np.sin(k * np.arange(1, 1 + np.prod(shape))).reshape(shape)


def frozen_arrays(cell, N=2, T=3, D=3, H=2):
    G = GATES[cell]
    arrays = {
        "xs": wave(1.1, N, T, D),
        "Wx": wave(1.3, D, G * H),
        "Wh": wave(1.7, H, G * H),
        "b": wave(1.9, G * H),
        "h0": wave(2.3, N, H),
        "dhs": wave(3.1, N, T, H),
        "dh": wave(3.7, N, H),
    }
    return arrays if cell == "rnn" else arrays | {"c0": wave(2.9, N, H), "dc": wave(4.1, N, H)}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-6)])
@pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["compiled", "numpy"])
@pytest.mark.parametrize("cell", GATES)
def test_frozen_numbers(cell, ops, dtype, tolerance):
    arrays = {name: array.astype(dtype) for name, array in frozen_arrays(cell).items()}
    results = run_cell(ops, cell, arrays)
    assert {(cell, name) for name in results} == {key for key in FROZEN if key[0] == cell}
    for name, array in results.items():
        assert numbers_of(array) == pytest.approx(FROZEN[cell, name], rel=0, abs=tolerance), name


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 5e-6)])
@pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["compiled", "numpy"])
def test_frozen_numbers_of_attention_and_a_loss(ops, dtype, tolerance):
    enc, dec, dout = 3 * wave(1.1, 2, 4, 2), wave(1.3, 2, 3, 2), wave(1.7, 2, 3, 2)
    enc, dec, dout = (array.astype(dtype) for array in (enc, dec, dout))
    layer, loss_layer = rnnfast.Attention(ops=ops), rnnfast.TimeSigmoidWithLoss(ops=ops)
    contexts = layer.forward(enc, dec, [4, 2])
    denc, ddec = layer.backward(dout)
    xs, ts = 9 * wave(1.9, 2, 3, 2), wave(2.3, 2, 3, 2) > 0
    loss = np.array([loss_layer.forward(xs.astype(dtype), ts)])
    results = {
        ("attention", "contexts"): contexts,
        ("attention", "weights"): layer.weights,
        ("attention", "denc"): denc,
        ("attention", "ddec"): ddec,
        ("sigmoid_loss", "loss"): loss,
        ("sigmoid_loss", "dxs"): loss_layer.backward(),
    }
    assert results.keys() == OTHERS.keys()
    for name, array in results.items():
        assert numbers_of(array) == pytest.approx(OTHERS[name], rel=0, abs=tolerance), name


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 5e-6)])
@pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["compiled", "numpy"])
@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_frozen_numbers_of_encoders_with_decoders(kind, ops, dtype, tolerance):
    model = CLASSES[kind](5, 3, 2, dtype=dtype, ops=ops, rng=0)
    named = model.named_params().items()
    waves = {name: wave(1.1 + k / 5, *W.shape) for k, (name, W) in enumerate(named)}
    model.set_params({name: W.astype(dtype) for name, W in waves.items()})
    xs, ts = [[0, 4, 2], [3, 1, 0]], [[4, 1, 2, 3], [4, 0, 3, -1]]
    loss, numbers = SEQ2SEQ[kind]
    assert model.forward(xs, ts, lengths=[2, 3]) == pytest.approx(loss, rel=0, abs=tolerance)
    model.backward()
    gradients = np.concatenate([dW.ravel() for dW in model.grads])
    assert numbers_of(gradients) == pytest.approx(numbers, rel=0, abs=tolerance)


def numbers_of(array):
    return array.flat[0], array.flat[-1], array.sum(), np.linalg.norm(array)
