"""The recurrent functions against PyTorch, in float64, where it is installed: its cells, lengths
as packed sequences, both directions.
"""

from functools import partial

import numpy as np
import pytest
from problems import assert_all_close
from sequences import OPS, both_directions, gradients_of, make_block, run, run_both

from rnnfast import cells, kernels

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is one of three oracles")


def lstm_columns(weights):
    """f, g, i, o in PyTorch's order i, f, g, o"""
    f, g, i, o = weights.chunk(4, dim=-1)
    return torch.cat([i, f, g, o], dim=-1)


def gru_columns(weights):
    """z, r, h as r, z, n; its z is sigmoid(-a), that is 1 - z"""
    z, r, h = weights.chunk(3, dim=-1)
    return torch.cat([r, -z, h], dim=-1)


# Each cell that PyTorch has: the module, and how it has the columns of our weights.
MODULES = {
    cells.RNN: (torch.nn.RNN, lambda weights: weights),
    cells.RNN_RELU: (partial(torch.nn.RNN, nonlinearity="relu"), lambda weights: weights),
    cells.LSTM: (torch.nn.LSTM, lstm_columns),
    cells.GRU_RESET_AFTER: (torch.nn.GRU, gru_columns),
    cells.LSTM_IFGO: (torch.nn.LSTM, lambda weights: weights),
    cells.GRU_RZN: (torch.nn.GRU, lambda weights: weights),
}


def leaf(array):
    return torch.tensor(array, requires_grad=True)


def run_torch(blocks):
    """What `run` returns for the one block, or `run_both` for two, but for all states."""
    cell, lengths = blocks[0].cell, blocks[0].options.get("lengths")
    make_module, columns = MODULES[cell]
    xs = leaf(blocks[0].xs)
    (_, T, D), H = xs.shape, len(blocks[0].weights[1])
    states = leaf(np.stack([block.states for block in blocks], axis=1))  # (S, directions, N, H)
    weights = [list(map(leaf, block.weights)) for block in blocks]
    given = {}
    for suffix, own in zip(("_l0", "_l0_reverse"), weights, strict=False):
        Wx, Wh, b, *bh = map(columns, own)
        bh = bh[0] if bh else torch.zeros_like(b)
        named = {"weight_ih": Wx.T, "weight_hh": Wh.T, "bias_ih": b, "bias_hh": bh}
        given |= {name + suffix: W for name, W in named.items()}

    module = make_module(D, H, batch_first=True, bidirectional=len(blocks) == 2)
    inputs = xs
    if lengths is not None:
        inputs = torch.nn.utils.rnn.pack_padded_sequence(
            xs, torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
    start = tuple(states) if cell.S > 1 else states[0]
    hs, last = torch.func.functional_call(module, given, (inputs, start))
    if lengths is not None:
        hs, _ = torch.nn.utils.rnn.pad_packed_sequence(hs, batch_first=True, total_length=T)
    last = torch.stack(last if cell.S > 1 else [last])

    dhs = np.concatenate([block.dhs for block in blocks], axis=2)
    dlast = np.stack([block.dlast for block in blocks], axis=1)
    torch.autograd.backward([hs, last], [torch.tensor(dhs), torch.tensor(dlast)])
    results = {"hs": hs.detach(), "dxs": xs.grad}
    pairs = {"last": last.detach().swapaxes(0, 1), "dstates": states.grad.swapaxes(0, 1)}
    for name, *own in zip(gradients_of(cell), *weights, strict=True):
        pairs[name] = torch.stack([W.grad for W in own])
    results |= pairs if len(blocks) == 2 else {name: pair[0] for name, pair in pairs.items()}
    return {name: result.numpy() for name, result in results.items()}


@pytest.mark.parametrize("ops", OPS, ids=lambda ops: ops.__name__)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("names", [(), ("lengths",)], ids=["whole", "packed"])
@pytest.mark.parametrize("sizes", [(4, 6, 3, 5), (1, 1, 1, 1), (7, 9, 13, 33)], ids=str)
@pytest.mark.parametrize("cell", MODULES, ids=lambda cell: cell.name)
def test_recurrent_functions(cell, sizes, names, directions, ops):
    """Outputs, last states, and gradients of everything, some arriving at the last states."""
    blocks = [make_block(cell, sizes, names, seed=k) for k in range(directions)]
    if names:  # PyTorch packs no row without steps
        blocks[0].options["lengths"] = np.maximum(blocks[0].lengths, 1)
    if directions == 1:
        results = run(ops, blocks[0])
    else:
        blocks = both_directions(*blocks)
        results = run_both(ops, blocks)
    del results["all states"]
    assert_all_close(results, run_torch(blocks))


@pytest.mark.parametrize("bias", [True, False], ids=["biases", "none"])
@pytest.mark.parametrize("form", ["time first", "batch first", "packed"])
@pytest.mark.parametrize("cell", [cells.RNN, cells.LSTM_IFGO, cells.GRU_RZN], ids=lambda c: c.name)
def test_on_the_memory_of_pytorch(cell, form, bias):
    """Both directions of a module, one after the other: its parameters, their gradients, outputs
    and states are read and written where they stand."""
    torch.manual_seed(0)
    N, T, D, H = 5, 7, 20, 33
    module = MODULES[cell][0](
        D, H, bias=bias, batch_first=form == "batch first", bidirectional=True
    ).double()
    start = torch.randn(cell.S, 2, N, H).double().requires_grad_()
    xs = torch.randn(*((N, T, D) if form == "batch first" else (T, N, D))).double()
    sizes = torch.tensor([5, 5, 4, 3, 3, 1, 1])
    if form == "packed":
        xs = torch.nn.utils.rnn.pack_padded_sequence(xs, torch.tensor([7, 5, 5, 3, 2])).data.clone()
        assert len(xs) == sizes.sum()
    xs.requires_grad_()
    given = torch.nn.utils.rnn.PackedSequence(xs, sizes) if form == "packed" else xs
    hs, last = module(given, tuple(start) if cell.S > 1 else start[0])
    hs = hs.data if form == "packed" else hs
    last = torch.stack(last if cell.S > 1 else [last])
    dhs, dlast = torch.randn_like(hs), torch.randn_like(last)
    torch.autograd.backward([hs, last], [dhs, dlast])

    def in_our_order(tensor):
        array = tensor.detach().numpy()
        return array.swapaxes(0, 1) if form == "time first" else array

    out, dxs = torch.full_like(hs, np.nan), torch.full_like(xs, np.nan)
    ends, begins = torch.empty_like(last), torch.empty_like(start)
    options = {"batch_sizes": sizes.numpy()} if form == "packed" else {}
    for k, suffix in enumerate(("_l0", "_l0_reverse")):
        own = {name: W for name, W in module.named_parameters() if name.endswith(suffix)}
        own = {name.removesuffix(suffix): W for name, W in own.items()}
        names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"][: len(own)]
        weights = [own[name].detach().numpy().T for name in names]
        grads = [torch.full_like(own[name], np.nan) for name in names]
        half = slice(k * H, (k + 1) * H)
        *_, cache = kernels.recurrent_forward(
            cell, in_our_order(xs), weights, start[:, k].detach().numpy(), reverse=k == 1,
            copy_xs=False, out=in_our_order(out)[..., half], last=ends[:, k].numpy(), **options,
        )  # fmt: skip
        kernels.recurrent_backward(
            cell, in_our_order(dhs)[..., half], dlast[:, k].numpy(), cache, weights[:2],
            [dW.numpy().T for dW in grads], dxs=in_our_order(dxs), adds_dx=k == 1,
            dfirst=[*begins.detach()[:, k].numpy()],
        )  # fmt: skip
        for name, dW in zip(names, grads, strict=True):
            torch.testing.assert_close(dW, own[name].grad, rtol=1e-10, atol=1e-12)
    for result, expected in ((out, hs), (ends, last), (dxs, xs.grad), (begins, start.grad)):
        torch.testing.assert_close(result, expected.detach(), rtol=1e-10, atol=1e-12)
