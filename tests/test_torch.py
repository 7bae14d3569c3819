"""Layers, models and optimizers against PyTorch, in float64, where it is installed."""

import numpy as np
import pytest
from problems import MODELS, assert_all_close, assert_close, make_problem

import rnnfast

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is one of three oracles")


def swap_gates(columns):
    """The gates f, g, i, o along the last axis in PyTorch's order i, f, g, o, or back again."""
    if isinstance(columns, torch.Tensor):
        f, g, i, o = columns.chunk(4, dim=-1)
        return torch.cat([i, f, g, o], dim=-1)
    i, f, g, o = np.split(columns, 4, axis=-1)
    return np.concatenate([f, g, i, o], axis=-1)


def leaf(array):
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def gru_outputs(xs, weights, states):
    """Those of the textbook's GRU, which torch.nn does not have."""
    Wx, Wh, b = (W.chunk(3, dim=-1) for W in weights)
    (h,), hs = states, []
    for x in xs.unbind(1):
        z, r = (torch.sigmoid(x @ Wx[k] + h @ Wh[k] + b[k]) for k in (0, 1))
        h = (1 - z) * h + z * torch.tanh(x @ Wx[2] + (r * h) @ Wh[2] + b[2])
        hs.append(h)
    return torch.stack(hs, dim=1), [h]


def cell_outputs(name, xs, weights, states):
    """Outputs (N, T, H) and last states (N, H) of torch.nn.RNN or LSTM, differentiable."""
    if name == "TimeGRU":
        return gru_outputs(xs, weights, states)
    Wx, Wh, b = map(swap_gates, weights) if name == "TimeLSTM" else weights
    D, H = len(Wx), len(Wh)
    module = {"TimeRNN": torch.nn.RNN, "TimeLSTM": torch.nn.LSTM}[name](D, H, batch_first=True)
    names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
    given = dict(zip(names, (Wx.T, Wh.T, b, torch.zeros_like(b)), strict=True))
    states = [state[None] for state in states]
    start = tuple(states) if name == "TimeLSTM" else states[0]
    hs, last = torch.func.functional_call(module, given, (xs, start))
    return hs, [state[0] for state in (last if name == "TimeLSTM" else [last])]


def numpy_of(tensors):
    return [tensor.detach().numpy() for tensor in tensors]


@pytest.mark.parametrize("sizes", [(3, 5, 4, 6, 1), (1, 1, 1, 1, 1), (2, 9, 7, 13, 1)], ids=str)
@pytest.mark.parametrize("name", ["TimeRNN", "TimeLSTM", "TimeGRU"])
def test_recurrent_layers(name, sizes):
    """Outputs, last states, and gradients of everything, some arriving at the last states."""
    problem = make_problem(name, sizes=sizes)
    layer = problem.layer(rnnfast)
    ours = [problem.forward(layer)["output[0]"], *layer.get_state()]
    dxs = layer.backward(*problem.gradients, **problem.last)
    last = [layer.dh, layer.dc] if name == "TimeLSTM" else [layer.dh]

    leaves = [leaf(array) for array in (problem.inputs + problem.weights + problem.state)]
    xs, Wx, Wh, b, *states = leaves
    hs, last_states = cell_outputs(name, xs, (Wx, Wh, b), states)
    incoming = [*problem.gradients, *problem.last.values()]
    torch.autograd.backward([hs, *last_states], list(map(torch.tensor, incoming)))

    theirs = numpy_of([hs, *last_states])
    assert_all_close(dict(enumerate(ours)), dict(enumerate(theirs)))
    gradients = dict(enumerate([dxs, *layer.grads, *last]))
    assert_all_close(gradients, dict(enumerate(numpy_of(leaf.grad for leaf in leaves))))


@pytest.mark.parametrize("name", ["RNN", "LSTM"])
def test_cells(name):
    """One step is a block of length 1."""
    problem = make_problem(name)
    results = problem.run(rnnfast)
    leaves = [leaf(array) for array in problem.inputs + problem.weights]
    n = len(problem.inputs)
    x, *states = leaves[:n]
    _, last = cell_outputs(f"Time{name}", x[:, None], leaves[n:], states)
    torch.autograd.backward(last, list(map(torch.tensor, problem.gradients)))
    expected = {f"output[{k}]": state.detach().numpy() for k, state in enumerate(last)}
    expected |= {f"gradient[{k}]": leaf.grad.numpy() for k, leaf in enumerate(leaves[:n])}
    expected |= {f"grads[{k}]": leaf.grad.numpy() for k, leaf in enumerate(leaves[n:])}
    assert_all_close(results, expected)


def test_embedding():
    problem = make_problem("TimeEmbedding")
    results = problem.run(rnnfast)
    W = leaf(problem.weights[0])
    out = torch.nn.functional.embedding(torch.tensor(problem.inputs[0]), W)
    out.backward(torch.tensor(problem.gradients[0]))
    assert_close(results["output[0]"], out.detach().numpy())
    assert_close(results["grads[0]"], W.grad.numpy())


def test_affine():
    problem = make_problem("TimeAffine")
    results = problem.run(rnnfast)
    x, W, b = map(leaf, problem.inputs + problem.weights)
    out = torch.nn.functional.linear(x, W.T, b)
    out.backward(torch.tensor(problem.gradients[0]))
    expected = out.detach(), x.grad, W.grad, b.grad
    names = "output[0]", "gradient[0]", "grads[0]", "grads[1]"
    assert_all_close(results, dict(zip(names, numpy_of(expected), strict=True)))


@pytest.mark.parametrize("ignore_label", [-1, 2])
def test_softmax_with_loss(ignore_label):
    problem = make_problem("TimeSoftmaxWithLoss")
    logits, targets = problem.inputs
    targets = np.where(targets == -1, ignore_label, targets)
    layer = rnnfast.TimeSoftmaxWithLoss()
    layer.ignore_label = ignore_label
    loss = layer.forward(logits, targets)

    xs = leaf(logits)
    theirs = torch.nn.functional.cross_entropy(
        xs.flatten(0, 1), torch.tensor(targets).flatten(), ignore_index=ignore_label
    )
    (0.7 * theirs).backward()
    assert loss == pytest.approx(theirs.item(), rel=1e-13)
    assert_close(layer.backward(0.7), xs.grad.numpy())


@pytest.mark.parametrize("ignore_label", [-1, 2, 0])
@pytest.mark.parametrize("name", ["TimeSigmoidWithLoss", "TimeSigmoidWithLoss flat"])
def test_sigmoid_with_loss(name, ignore_label):
    logits, targets = make_problem(name).inputs
    targets = np.where(targets == -1, ignore_label, targets)
    layer = rnnfast.TimeSigmoidWithLoss(ignore_label=ignore_label)
    loss = layer.forward(20 * logits, targets)

    xs, kept = leaf(20 * logits), torch.tensor(targets != ignore_label)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        xs[kept], torch.tensor(targets, dtype=torch.float64)[kept]
    )
    (0.7 * theirs).backward()
    assert loss == pytest.approx(theirs.item(), rel=1e-13)
    assert_close(layer.backward(0.7), xs.grad.numpy())


@pytest.mark.parametrize("lengths", [None, [7, 1, 4]], ids=str)
@pytest.mark.parametrize("module", [rnnfast, rnnfast.reference], ids=["compiled", "numpy"])
def test_attention(module, lengths):
    """Queries are the decoder's; keys and values are both the encoder's."""
    problem = make_problem("Attention")
    (hs_enc, hs_dec), (dout,) = problem.inputs, problem.gradients
    layer = module.Attention()
    ours = [layer.forward(hs_enc, hs_dec, lengths), *layer.backward(dout)]

    enc, dec, mask = leaf(hs_enc), leaf(hs_dec), None
    if lengths is not None:
        mask = (torch.arange(7) < torch.tensor(lengths)[:, None])[:, None]
    out = torch.nn.functional.scaled_dot_product_attention(dec, enc, enc, mask, scale=1.0)
    out.backward(torch.tensor(dout))
    theirs = numpy_of([out, enc.grad, dec.grad])
    assert_all_close(dict(enumerate(ours)), dict(enumerate(theirs)))


@pytest.mark.parametrize("locked", [False, True])
def test_dropout(locked):
    """Theirs is of other masks: what is kept is multiplied by as much, and the gradient is that of
    a product with our mask."""
    problem = make_problem("TimeDropout")
    (xs,), (dout,) = problem.inputs, problem.gradients
    layer = rnnfast.TimeDropout(0.4, locked=locked, rng=0)
    mask = torch.tensor(layer.forward(np.ones_like(xs)))
    theirs = torch.nn.functional.dropout(torch.ones_like(mask), 0.4, training=True)
    assert set(mask.unique().tolist()) == set(theirs.unique().tolist())
    given = leaf(xs)
    out = given * mask
    out.backward(torch.tensor(dout))
    layer.rng = 0
    assert_close(layer.forward(xs), out.detach().numpy())
    assert_close(layer.backward(dout), given.grad.numpy())


@pytest.mark.parametrize("tie_weights", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("Model", MODELS)
def test_whole_models(Model, num_layers, tie_weights):
    """Loss and gradients over two blocks, between which the state is carried, not its gradient."""
    rng = np.random.default_rng(0)
    options = {"num_layers": num_layers, "tie_weights": tie_weights}
    model = Model(11, 6, 6, dtype=np.float64, rng=rng, **options)
    params = list(map(leaf, model.params))
    embed_W, *cells, affine_b = params
    affine_W = embed_W.T if tie_weights else cells.pop()
    layers = [cells[k : k + 3] for k in range(0, len(cells), 3)]
    assert len(layers) == num_layers
    states = [[torch.zeros(3, 6, dtype=torch.float64)] * (2 if Model is rnnfast.Rnnlm else 1)]
    states *= num_layers

    for block in range(2):
        xs, ts = rng.integers(0, 11, (2, 3, 5))
        ts[0, :2] = -1
        loss = model.forward(xs, ts)
        model.backward()

        hidden = torch.nn.functional.embedding(torch.tensor(xs), embed_W)
        for k, weights in enumerate(layers):
            name = type(model.recurrent_layers[k]).__name__
            hidden, last = cell_outputs(name, hidden, weights, states[k])
            states[k] = [state.detach() for state in last]
        logits = (hidden @ affine_W + affine_b).flatten(0, 1)
        theirs = torch.nn.functional.cross_entropy(
            logits, torch.tensor(ts).flatten(), ignore_index=-1
        )
        gradients = torch.autograd.grad(theirs, params)

        assert loss == pytest.approx(theirs.item(), rel=1e-13)
        for k, (dW, expected) in enumerate(zip(model.grads, gradients, strict=True)):
            assert_close(dW, expected.numpy(), name=f"block {block}, grads[{k}]")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (rnnfast.SGD(0.1), lambda W: torch.optim.SGD(W, 0.1)),
        # v = m v + dW and W -= lr v is v = m v - lr dW and W += v while lr stays the same
        (rnnfast.Momentum(0.1, 0.8), lambda W: torch.optim.SGD(W, 0.1, momentum=0.8)),
        (rnnfast.AdaGrad(0.1), lambda W: torch.optim.Adagrad(W, 0.1, eps=1e-7)),
        (rnnfast.RMSprop(0.1, 0.9), lambda W: torch.optim.RMSprop(W, 0.1, alpha=0.9, eps=1e-7)),
        # The textbook adds 1e-7 to sqrt(v) before v is corrected for its start from 0, PyTorch
        # after: they coincide where eps vanishes beside sqrt(v), as with 0 and these gradients.
        (
            rnnfast.AdamW(0.1, 0.8, 0.9, 0.3),
            lambda W: torch.optim.AdamW(
                [{"params": W[:1], "weight_decay": 0.3}, {"params": W[1:], "weight_decay": 0}],
                0.1,
                (0.8, 0.9),
                eps=0,
            ),
        ),
        (rnnfast.Adam(0.1, 0.8, 0.9), lambda W: torch.optim.Adam(W, 0.1, (0.8, 0.9), eps=0)),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "update") else "",
)
def test_optimizers(ours, theirs):
    rng = np.random.default_rng(0)
    params = [rng.standard_normal((3, 4)), rng.standard_normal(4)]
    tensors = [leaf(W) for W in params]
    theirs = theirs(tensors)
    for _ in range(4):
        grads = [rng.standard_normal(W.shape) for W in params]
        for dW in grads:
            dW += np.sign(dW)
        for W, dW in zip(tensors, grads, strict=True):
            W.grad = torch.tensor(dW)
        ours.update(params, grads)
        theirs.step()
        for W, tensor in zip(params, tensors, strict=True):
            assert_close(W, tensor.detach().numpy(), 1e-6 if "Adam" in str(type(ours)) else 1e-12)
