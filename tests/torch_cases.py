"""Modules of rnnfast.torch beside those of torch.nn: drawn options, and both run in one way."""

import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import rnnfast.torch

NAMES = ("RNN", "LSTM", "GRU")
TOLERANCES = {torch.float64: 1e-10, torch.float32: 3e-5}
FORMS = ("batched", "one", "packed", "sorted")


def pair(name, *sizes, **options):
    """A module of torch.nn and one of ours with the same state dict."""
    theirs = getattr(torch.nn, name)(*sizes, **options)
    ours = getattr(rnnfast.torch, name)(*sizes, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def tensors_of(results):
    """All tensors of what a module returns, in order."""
    if isinstance(results, torch.Tensor):
        return [results]
    if isinstance(results, PackedSequence):
        return [results.data]
    return [tensor for result in results for tensor in tensors_of(result)]


def assert_same(ours, theirs, dtype=torch.float64):
    """Tensors, or None in the same places, that differ by rounding at most."""
    assert len(ours) == len(theirs)
    for k, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert (one is None) == (other is None), k
        if one is None:
            continue
        assert (one.shape, one.dtype) == (other.shape, other.dtype), k
        one, other = one.detach(), other.detach()
        scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(
            one, other, rtol=0, atol=TOLERANCES[dtype] * scale, equal_nan=True, msg=f"tensor {k}"
        )


def draw(rng):
    """Name, sizes, options, form of the input, rows, steps, what requires a gradient, outputs
    that get one."""
    pick = rng.choice
    name, L = str(pick(NAMES)), int(pick([1, 1, 2, 3]))
    D, H, N, T = (int(pick(sizes)) for sizes in ([1, 3, 17], [1, 4, 19], [1, 2, 5], [1, 3, 8]))
    options = {
        "num_layers": L,
        "bidirectional": bool(pick([False, True])),
        "batch_first": bool(pick([False, True])),
        "bias": bool(pick([False, True, True])),
        "dropout": float(pick([0.0, 0.3, 1.0])) if L > 1 else 0.0,
        "dtype": torch.float32 if rng.random() < 0.5 else torch.float64,
    }
    if name == "RNN":
        options["nonlinearity"] = str(pick(["tanh", "relu"]))
    form = str(pick(FORMS))
    return {
        "name": name,
        "sizes": (D, H),
        "options": options,
        "form": form,
        "N": 1 if form == "one" else N,
        "T": T,
        "training": bool(pick([False, True])),
        "states": bool(pick([False, True])),
        "needs": [bool(b) for b in rng.random(3) < 0.7],  # input, states, weights
        "frozen": [bool(b) for b in rng.random(16 * L) < 0.2],
        "arrives": [bool(b) for b in rng.random(3) < 0.7],
        "layout": str(pick(["plain", "plain", "steps", "features", "expanded"])),
        "seed": int(rng.integers(1 << 30)),
    }


def laid_out(x, layout):
    """The same numbers with other strides."""
    if layout == "steps" and len(x) > 1:
        return torch.stack([x, x], 1)[:, 0]
    if layout == "features":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "expanded":
        return x[..., :1].expand(x.shape)
    return x


def make_input(case):
    """The tensor that may require a gradient, and what the module is given."""
    dtype, (D, _) = case["options"]["dtype"], case["sizes"]
    N, T, form = case["N"], case["T"], case["form"]
    if form in ("packed", "sorted"):
        lengths = torch.randint(1, T + 1, (N,))
        if form == "sorted":
            lengths = lengths.sort(descending=True).values
        rows = [torch.randn(int(n), D, dtype=dtype) for n in lengths]
        packed = pack_sequence(rows, enforce_sorted=form == "sorted")
        x = laid_out(packed.data, case["layout"]).detach().requires_grad_(case["needs"][0])
        return x, packed._replace(data=x)
    shape = (T, D) if form == "one" else (N, T, D) if case["options"]["batch_first"] else (T, N, D)
    x = laid_out(torch.randn(shape, dtype=dtype), case["layout"])
    x = x.detach().requires_grad_(case["needs"][0])
    return x, x


def run(case, module):
    """Outputs and gradients of everything that requires one, with the numbers of the seed."""
    torch.manual_seed(case["seed"])
    module.train(case["training"])
    for parameter, frozen in zip(module.parameters(), case["frozen"], strict=False):
        parameter.requires_grad_(case["needs"][2] and not frozen)
    x, given = make_input(case)
    count = module.num_layers * (1 + module.bidirectional)
    shape = (count, module.hidden_size)
    shape = shape if case["form"] == "one" else (count, case["N"], module.hidden_size)
    states = [
        torch.randn(shape, dtype=x.dtype).requires_grad_(case["needs"][1])
        for _ in range((1 + (case["name"] == "LSTM")) * case["states"])
    ]
    hx = (tuple(states) if case["name"] == "LSTM" else states[0]) if states else None
    outputs = tensors_of(module(given, hx))
    grads = [torch.randn_like(output) for output in outputs]
    pairs = [
        (output, grad)
        for output, grad, arrives in zip(outputs, grads, case["arrives"], strict=False)
        if arrives and output.requires_grad
    ]
    if pairs:
        torch.autograd.backward(*zip(*pairs, strict=True))
    return [*outputs, *(leaf.grad for leaf in (x, *states, *module.parameters()))]
