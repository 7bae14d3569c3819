"""Stacks against PyTorch's modules with several layers, in float64, where it is installed."""

import numpy as np
import pytest
from problems import assert_all_close
from test_stack import H, N, T, block_of, make, run

import rnnfast
from rnnfast import reference

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is one of three oracles")
from test_torch_sequences import MODULES, leaf  # noqa: E402

KINDS = [
    ("rnn", {}),
    ("rnn", {"activation": "relu"}),
    ("lstm", {}),
    ("gru", {"reset_after": True}),
]


def run_torch(stack, xs, states, dhs, dlast, lengths=None):
    """What `run` of the stack should return."""
    make_module, columns = MODULES[stack.cell]
    module = make_module(
        xs.shape[2], H, stack.num_layers, batch_first=True, bidirectional=stack.bidirectional
    )
    xs, states = leaf(xs), list(map(leaf, states))
    weights = {name: leaf(W) for name, W in stack.named_params().items()}
    given = {}
    for name, W in weights.items():
        layer, _, own = name.partition(".")
        suffix = f"_l{layer}{'_reverse' if own.endswith('2') else ''}"
        match own.rstrip("12"):
            case "Wx" | "Wh":
                given[f"weight_{own[1].replace('x', 'i')}h{suffix}"] = columns(W).T
            case "b":
                given[f"bias_ih{suffix}"] = columns(W)
                given.setdefault(f"bias_hh{suffix}", torch.zeros_like(W))
            case "bh":
                given[f"bias_hh{suffix}"] = columns(W)
    inputs = xs
    if lengths is not None:
        inputs = torch.nn.utils.rnn.pack_padded_sequence(
            xs, torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
    start = tuple(states) if len(states) > 1 else states[0]
    hs, last = torch.func.functional_call(module, given, (inputs, start))
    if lengths is not None:
        hs, _ = torch.nn.utils.rnn.pad_packed_sequence(hs, batch_first=True, total_length=T)
    last = last if len(states) > 1 else [last]
    arriving = [dhs, *dlast.values()]
    torch.autograd.backward([hs, *last], list(map(torch.tensor, arriving)))
    results = {"output": hs.detach(), "dxs": xs.grad}
    for name, state, after in zip(stack.cell.states, states, last, strict=True):
        results |= {name: after.detach(), f"d{name}": state.grad}
    results |= {name: W.grad for name, W in weights.items()}
    return {name: result.numpy() for name, result in results.items()}


@pytest.mark.parametrize("module", [rnnfast, reference], ids=["compiled", "numpy"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("lengths", [None, [6, 1, 3, 5]], ids=["whole", "packed"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=["rnn", "relu", "lstm", "gru"])
def test_stacks(kind, options, layers, lengths, bidirectional, module):
    """Outputs, last states, and gradients of everything, some arriving at all last states."""
    stack = make(module, kind, layers=layers, bidirectional=bidirectional, **options)
    assert len(lengths or range(N)) == N
    block = block_of(stack)
    given = {} if lengths is None else {"lengths": np.array(lengths)}
    assert_all_close(run(stack, *block, **given), run_torch(stack, *block, **given))


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_initial_weights_are_spread_as_theirs(name):
    """All within the same bounds, and as wide; names and order of sizes are the same."""
    sizes = 7, 30, 2
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*sizes, bidirectional=True)
    ours = rnnfast.TimeStack(name.lower(), *sizes, bidirectional=True, rng=0)
    for kind in ("weight_ih", "weight_hh", "bias_ih"):
        arrays = [W.detach().numpy() for key, W in theirs.named_parameters() if kind in key]
        own = {"weight_ih": "Wx", "weight_hh": "Wh", "bias_ih": "b"}[kind]
        mine = [W for key, W in ours.named_params().items() if key.partition(".")[2][:-1] == own]
        assert [W.shape for W in mine] == [W.T.shape for W in arrays]
        together, others = (np.concatenate([W.ravel() for W in Ws]) for Ws in (mine, arrays))
        assert abs(together.max() - others.max()) < 0.1 * others.max()
        assert abs(together.std() - others.std()) < 0.1 * others.std()
