"""The recurrent functions against PyTorch, in float64, where it is installed: its cells, lengths
as packed sequences, both directions.
"""

from functools import partial

import numpy as np
import pytest
from problems import assert_all_close
from sequences import OPS, both_directions, gradients_of, make_block, run, run_both

from rnnfast import cells

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
