"""The kernels beside their twins, where operands of products are rounded to bf16.

Of whole numbers all sums of products are exact, whatever their order, and results are the same to
the bit; so are those of a recurrent layer with relu. Where there are exponentials, numbers differ
in last bits before they are rounded: see `rounded.require_rounded_alike`.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import sequences
from drawn import EDGES, ROWS, moved
from forms import SEED, form
from problems import (
    BIDIRECTIONAL,
    LAYOUTS,
    RECURRENT,
    STACKS,
    STEPS,
    assert_close,
    make_problem,
)
from rounded import from_bits, many_bits, require_rounded_alike
from test_precision import BF16, normal

import rnnfast
from rnnfast import cells, kernels, reference
from rnnfast.kernels import engine
from rnnfast.reference import ops as numpy_ops
from rnnfast.reference.rounding import rounded

pytestmark = pytest.mark.usefixtures("threads_for_small_calls")
SIZES = [  # N, T, D, H: one of all, odd ones, on both sides of a panel, of a tile, of few rows
    *[(1, 1, 1, 1), (1, 3, 1, 2), (3, 2, 2, 1), (2, 4, 3, 5), (3, 3, 17, 15), (6, 2, 16, 16)],
    *[(7, 3, 5, 17), (1, 6, 33, 31), (13, 2, 7, 65), (49, 2, 9, 33), (70, 3, 3, 7), (5, 1, 64, 40)],
]
sizes = pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "-".join(map(str, sizes)))
threads = pytest.mark.parametrize("threads", [1, 2, 3])


def whole(rng, most, *shape):
    """Whole numbers, most of which have more bits than bf16."""
    return rng.integers(-most, most + 1, shape).astype(np.float32)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, e in expected.items():
        np.testing.assert_array_equal(actual[name], e, name, strict=True)


def garbage_behind(array):
    """A view of a larger array, with NaN wherever the view ends."""
    large = np.full([size + 9 for size in array.shape], np.nan, array.dtype)
    view = large[tuple(slice(size) for size in array.shape)]
    view[...] = array
    return view


def plain(array):
    return array


layouts = pytest.mark.parametrize(
    "layout", [plain, *LAYOUTS, garbage_behind], ids=lambda layout: layout.__name__
)


# Affine layers. ---------------------------------------------------------------------------------

AFFINE = [  # rows, D, V: D is K of the first product, V of dx, rows of dW
    *[(1, 1, 1), (1, 3, 2), (3, 1, 5), (2, 2, 1), (1, 65, 33), (5, 7, 17), (6, 64, 64)],
    *[(47, 9, 31), (49, 33, 65), (130, 5, 3), (3, 129, 130), (64, 255, 17), (2, 100, 260)],
    *[(3, 1301, 35), (60, 1301, 35), (1100, 5, 33)],  # several blocks of K, several parts of a sum
]


def run_affine(ops, x, W, b, dout, **options):
    dW, db = np.full(W.shape, np.nan, W.dtype), np.full(b.shape, np.nan, b.dtype)
    out = ops.affine_forward(x, W, b, **options)
    dx = ops.affine_backward(dout, x, W, dW, db, **options)
    return {"out": out, "dx": dx, "dW": dW, "db": db}


@threads
@layouts
@pytest.mark.parametrize("sizes", AFFINE, ids=lambda sizes: "-".join(map(str, sizes)))
def test_affine_layers_of_whole_numbers(sizes, layout, threads):
    engine.set_num_threads(threads)
    (M, D, V), rng = sizes, np.random.default_rng(sizes)
    shapes = (M, D), (D, V), (V,), (M, V)
    most = 600 if max(sizes) < 300 else 350  # so that sums stay below 2^24
    arrays = [layout(whole(rng, most, *shape)) for shape in shapes]
    expected = run_affine(numpy_ops, *arrays, **BF16)
    assert_same(run_affine(kernels, *arrays, **BF16), expected)
    if M * D * V > 1000:  # there is something to be rounded
        plain = run_affine(numpy_ops, *arrays)
        assert all((expected[name] != plain[name]).any() for name in ("out", "dx", "dW"))


def test_every_number_is_rounded_as_its_twin_does_it():
    """x 1 and 1 x, each a product of one term; denormal numbers are 0 in the kernels."""
    one, zero = np.ones((1, 1), "f"), np.zeros(1, "f")
    for x in map(from_bits, many_bits()):
        expected, normal = rounded(x), ~(np.abs(x) < np.finfo("f").tiny)
        for out in (
            kernels.affine_forward(x[:, None], one, zero, **BF16)[:, 0],
            kernels.affine_forward(one, x[None], np.zeros(len(x), "f"), **BF16)[0],
        ):
            np.testing.assert_array_equal(out[normal], expected[normal])


@pytest.mark.parametrize("K", [1, 2, 3, 5, 8])
def test_infinities_stay_where_they_are(K):
    """What fills a pair of numbers up is no factor of an infinity."""
    x, W = normal(9, K), normal(K, 20)
    x[4, K - 1], W[K - 1, 7] = np.inf, -np.inf
    out = kernels.affine_forward(x, W, np.zeros(20, "f"), **BF16)
    others = np.ones(out.shape, bool)
    others[4], others[:, 7] = False, False
    assert np.isfinite(out[others]).all()
    assert np.isinf(out[~others]).all()


# Recurrent layers. ------------------------------------------------------------------------------


def whole_block(sizes, names, seed):
    """A block of an RNN with relu and these options, in whole numbers, whose states stay small."""
    block = sequences.make_block(cells.RNN_RELU, sizes, names, "float32", seed)
    rng = np.random.default_rng([seed, *sizes])
    Wx, Wh, b = block.weights
    options = dict(block.options)
    if "recurrent_mask" in options:
        options["recurrent_mask"] = np.round(options["recurrent_mask"] / 2)
    if "zoneouts" in options:
        options["zoneouts"] = tuple(None if d is None else np.round(d) for d in options["zoneouts"])

    def signs(W):
        """-1, 0 and 1, of which about one in a column is not 0."""
        return (rng.choice([-1, 1], W.shape) * (rng.random(W.shape) < 1 / len(W))).astype("f")

    return replace(
        block,
        xs=whole(rng, 500, *block.xs.shape),
        weights=[signs(Wx), signs(Wh), whole(rng, 99, *b.shape)],
        states=whole(rng, 500, *block.states.shape),
        dhs=whole(rng, 300, *block.dhs.shape),
        dlast=whole(rng, 300, *block.dlast.shape),
        options=options,
    )


@threads
@pytest.mark.parametrize("seed", range(6))
@sizes
def test_a_recurrent_layer_of_whole_numbers(sizes, seed, threads):
    engine.set_num_threads(threads)
    names = sequences.draw_options(seed) if seed else ()
    block = whole_block(sizes, names, seed)
    results, cache = sequences.run_forward(kernels, block, **BF16)
    results |= sequences.run_backward(kernels, block, cache)
    expected, twin = sequences.run_forward(numpy_ops, block, **BF16)
    assert_same(results, expected | sequences.run_backward(numpy_ops, block, twin))
    assert_same(
        sequences.run_backward(kernels, block, cache),
        {n: results[n] for n in results if n not in expected},
    )


@threads
@pytest.mark.parametrize("seed", range(4))
@sizes
def test_two_directions_of_whole_numbers(sizes, seed, threads):
    engine.set_num_threads(threads)
    names = sequences.draw_options(seed + 10) if seed else ()
    blocks = sequences.both_directions(
        whole_block(sizes, names, seed), whole_block(sizes, names, seed + 100)
    )
    results = []
    for ops in (kernels, numpy_ops):
        outputs, cache = sequences.run_both_forward(ops, blocks, **BF16)
        results.append(outputs | sequences.run_both_backward(ops, blocks, cache))
    assert_same(*results)


def run_one_way(ops, blocks, **options):
    outputs, cache = sequences.run_forward(ops, blocks[0], **options)
    return outputs | sequences.run_backward(ops, blocks[0], cache)


def run_both_ways(ops, blocks, **options):
    outputs, cache = sequences.run_both_forward(ops, blocks, **options)
    return outputs | sequences.run_both_backward(ops, blocks, cache)


@pytest.mark.parametrize("run", [run_one_way, run_both_ways])
def test_drawn_blocks_of_whole_numbers(run):
    """Of any sizes, options, strides and numbers of threads."""
    changed, count = 0, form(30, 10_000)
    for k in range(count):
        rng = np.random.default_rng([SEED, k])
        engine.set_num_threads(int(rng.choice([1, 2, 3])))
        sizes = [int(n) for n in (rng.choice(ROWS), rng.integers(1, 6), *rng.choice(EDGES, 2))]
        names = [name for name in sequences.OPTIONS if rng.random() < 0.4]
        blocks = [whole_block(sizes, names, 2 * k + way) for way in range(2)]
        if run is run_both_ways:
            blocks = sequences.both_directions(*blocks)
        given = [block.map(partial(moved, rng=rng)) for block in blocks]
        given[1].xs = given[0].xs
        expected, plain = run(numpy_ops, blocks, **BF16), run(numpy_ops, blocks)
        try:
            assert_same(run(kernels, given, **BF16), expected)
        except AssertionError as error:
            error.add_note(f"RNNFAST_SEED={SEED}, block {k}: {sizes}, {names}")
            raise
        changed += any((expected[name] != plain[name]).any() for name in plain)
    print(f"\n{count:,} blocks, 0 differ from their twins, {changed:,} from float32")
    assert changed > count / 2


@pytest.mark.parametrize("order", [plain, np.ascontiguousarray])
@sizes
def test_rows_of_packed_sequences(sizes, order):
    """In the caller's memory, which `out` and `dxs` are, and without biases."""
    N, T, D, H = sizes
    block = whole_block(sizes, (), 5)
    batch_sizes = np.sort(np.random.default_rng(sizes).integers(1, N + 1, T))[::-1].copy()
    batch_sizes[0] = N
    rows = batch_sizes.sum()
    xs, dhs = (np.resize(a, (rows, a.shape[2])) for a in (block.xs, block.dhs))
    weights = [order(W) for W in block.weights[:2]]
    results = []
    for ops in (kernels, numpy_ops):
        out, dxs = np.zeros((rows, 2 * H), "f")[:, :H], np.ones((rows, D), "f")
        hs, last, cache = ops.recurrent_forward(
            block.cell, xs, [*weights, None], None, batch_sizes=batch_sizes, out=out, **BF16
        )
        grads = [np.empty_like(W) for W in weights]
        given = {"dxs": dxs, "adds_dx": True}
        _, dfirst = ops.recurrent_backward(block.cell, dhs, None, cache, weights, grads, **given)
        found = {"hs": hs, "last": last, "dxs": dxs, "dfirst": dfirst}
        results.append(found | dict(zip(("dWx", "dWh"), grads, strict=True)))
    assert_same(*results)


EVEN_RATES = {"recurrent_dropout": 0.5, "zoneout": 0.5, "weight_drop": 0.5, "rng": 3}


@threads
@pytest.mark.parametrize("rates", [{}, EVEN_RATES], ids=["", "regularised"])
@pytest.mark.parametrize("name", ["TimeRNN relu", "TimeBiRNN relu", "TimeStack relu"])
@pytest.mark.parametrize("sizes", [(2, 3, 5, 7), (9, 2, 33, 17), (50, 2, 3, 9)])
def test_layers_of_whole_numbers(name, sizes, rates, threads):
    """Masks are of 0, 1 and 2; a second call begins with the states of the first."""
    engine.set_num_threads(threads)
    rng, problem = np.random.default_rng(sizes), make_problem(name, "float32", (*sizes, 1))
    N, T, D, _ = sizes
    weights = [
        whole(rng, 99, *W.shape)
        if W.ndim == 1
        else (rng.choice([-1, 1], W.shape) * (rng.random(W.shape) < 1 / len(W))).astype("f")
        for W in problem.weights
    ]
    (dhs,), (state,) = problem.gradients, problem.state
    problem.weights, state, dhs = weights, whole(rng, 400, *state.shape), whole(rng, 99, *dhs.shape)
    calls = [
        {"xs": whole(rng, 400, N, T, D), "lengths": rng.integers(0, T + 1, N)},
        {
            "xs": whole(rng, 400, 4, D),
            "index": rng.integers(0, 4, (N, T)),
            "reset": dhs[..., 0] > 50,
        },
    ]
    if name == "TimeStack relu" and rates:
        rates = rates | {"dropout": 0.5}
    results = []
    for module in (rnnfast, reference):
        layer = problem.make(module, stateful=True, truncate_size=2, **BF16, **rates)
        layer.set_state(state)
        found = {}
        for k, call in enumerate(calls):
            found |= {f"hs {k}": layer.forward(**call), f"h {k}": layer.h}
            found |= {f"dxs {k}": layer.backward(dhs), f"dh {k}": layer.dh}
            found |= {f"grads {k} {j}": dW.copy() for j, dW in enumerate(layer.grads)}
        results.append(found)
    assert_same(*results)


@layouts
def test_weights_anywhere_in_memory(layout):
    block = whole_block((5, 3, 7, 19), (), 3)
    moved = block.map(layout)
    results = []
    for ops, given in ((kernels, moved), (numpy_ops, block)):
        outputs, cache = sequences.run_forward(ops, given, **BF16)
        results.append(outputs | sequences.run_backward(ops, given, cache))
    assert_same(*results)


@pytest.mark.parametrize("cell", cells.KERNEL_CELLS.values(), ids=lambda cell: cell.name)
@pytest.mark.parametrize("names", [(), ("index",), ("lengths", "reset"), sequences.OPTIONS])
def test_every_cell_is_its_twin(cell, names):
    def run(seed):
        engine.set_num_threads(1 + seed % 2)
        block = sequences.make_block(cell, (3, 3, 5, 9), names, "float32", seed)
        results = []
        for ops, options in ((kernels, BF16), (numpy_ops, BF16), (numpy_ops, {})):
            outputs, cache = sequences.run_forward(ops, block, **options)
            results.append(outputs | sequences.run_backward(ops, block, cache))
        return results

    require_rounded_alike(run)


@pytest.mark.parametrize(
    "cell", [cell for cell in cells.KERNEL_CELLS.values() if cell != cells.GRU]
)
def test_gradients_of_what_is_not_rounded_are_central_differences(cell):
    """Biases and c of a single step; of operands the function is made of steps, and so it is of the
    biases of a GRU whose r is multiplied into one."""
    block = sequences.make_block(cell, (2, 1, 5, 4), (), "float32", 2)
    _, cache = sequences.run_forward(kernels, block, **BF16)
    gradients = sequences.run_backward(kernels, block, cache)
    step = 2.0**-6

    def loss():
        results, _ = sequences.run_forward(kernels, block, **BF16)
        sums = (results["hs"] * block.dhs, results["last"] * block.dlast)
        return sum(np.sum(part, dtype=np.float64) for part in sums)

    varied = dict(zip(sequences.gradients_of(cell)[2:], block.weights[2:], strict=True))
    if cell.S > 1:
        varied["dstates"] = block.states[1]
    for name, array in varied.items():
        gradient = gradients[name][1] if name == "dstates" else gradients[name]
        found = np.zeros(array.shape)
        for place in np.ndindex(array.shape):
            before = array[place]
            array[place] = before + step
            above = loss()
            array[place] = before - step
            found[place] = (above - loss()) / (2 * step)
            array[place] = before
        assert_close(gradient, found, 2e-3, name)


BLOCKS = [*RECURRENT, *BIDIRECTIONAL, *STACKS]
RATES = {"recurrent_dropout": 0.3, "zoneout": 0.2, "weight_drop": 0.25, "rng": 3}


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        *((name, {}) for name in (*BLOCKS, *STEPS, "TimeAffine", "TimeAffineWithLoss")),
        *((name, RATES) for name in BLOCKS),
    ],
)
def test_every_layer_is_its_twin(name, rates):
    def run(seed):
        problem = make_problem(name, "float32", (3, 2, 5, 9, 7), seed)
        results = []
        for module, options in ((rnnfast, BF16), (reference, BF16), (reference, {})):
            layer = problem.layer(module, **options, **rates)
            results.append(problem.forward(layer) | problem.backward(layer))
        return results

    require_rounded_alike(run)


@pytest.mark.parametrize("cell", cells.KERNEL_CELLS.values(), ids=lambda cell: cell.name)
@pytest.mark.parametrize("sizes", [(2, 3, 17, 19), (9, 4, 40, 33), (60, 3, 9, 16)])
def test_the_same_bits_for_any_number_of_threads(cell, sizes):
    block = sequences.make_block(cell, sizes, ("lengths",), "float32", 1)
    results = []
    for count in (1, 2, 3, 8):
        engine.set_num_threads(count)
        outputs, cache = sequences.run_forward(kernels, block, **BF16)
        results.append(outputs | sequences.run_backward(kernels, block, cache))
    for other in results[1:]:
        assert_same(other, results[0])


def test_memory_of_one_precision_serves_the_other():
    block = sequences.make_block(cells.LSTM, (5, 4, 7, 19), (), "float32")
    fresh, cache = {}, None
    for options in (BF16, {}):
        outputs, own = sequences.run_forward(kernels, block, **options)
        fresh[bool(options)] = outputs | sequences.run_backward(kernels, block, own)
    for options in (BF16, {}, {}, BF16, BF16):
        outputs, cache = sequences.run_forward(kernels, block, cache=cache, **options)
        results = outputs | sequences.run_backward(kernels, block, cache)
        assert_same(results, fresh[bool(options)])


# The loss, generation, and what is refused. -----------------------------------------------------


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 2, 5, 9), (7, 9, 16, 33), (9, 8, 3, 100)])
def test_the_fused_loss_is_its_twin(sizes):
    N, T, D, V = sizes

    def run(seed):
        engine.set_num_threads(1 + seed % 2)
        problem = make_problem("TimeAffineWithLoss", "float32", (N, T, D, 1, V), seed)
        results = []
        for module, options in ((rnnfast, BF16), (reference, BF16), (reference, {})):
            layer = problem.layer(module, **options)
            found = problem.forward(layer) | problem.backward(layer)
            results.append(found | {"logits": layer.logits(problem.inputs[0])})
            without = layer.forward(*problem.inputs, need_gradient=False)
            assert without == found["output[0]"]
        return results

    require_rounded_alike(run)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("rows", [1, 3, 60])
@pytest.mark.parametrize("length", [1, 40])
def test_texts_are_those_of_the_twin(cell, rows, length):
    """But for a few: where a number flips, another token may be drawn."""
    alike = []
    for seed in range(5):
        texts = []
        for ops, options in ((kernels, BF16), (numpy_ops, BF16)):
            model = rnnfast.LanguageModel(
                23, cell=cell, embedding=7, hidden=18, layers=2, rng=seed, ops=ops, **options
            )
            for W in model.params:
                W *= 4
            texts.append(rnnfast.generate(model, [1], length, samples=rows, rng=seed))
        alike += np.equal(*np.atleast_2d(*texts)).all(axis=1).tolist()
    assert np.mean(alike) > 0.8


def test_a_model_trains_as_its_twin():
    losses = []
    ids = np.arange(400) * 7 % 11
    for ops, options in ((kernels, BF16), (numpy_ops, BF16)):
        model = rnnfast.LanguageModel(11, embedding=8, hidden=16, rng=0, ops=ops, **options)
        optimizer = rnnfast.Adam(0.01)
        for _ in range(20):
            losses.append(model.forward(ids[:-1].reshape(3, -1), ids[1:].reshape(3, -1)))
            model.backward()
            optimizer.update(model.params, model.grads)
    assert losses[:20] == pytest.approx(losses[20:], rel=2e-3)
    assert losses[19] < 0.8 * losses[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_kernels_refuse(dtype):
    x, W, b = (normal(*shape).astype(dtype) for shape in ((2, 3), (3, 4), (4,)))
    for wrong in ("float16", "float32", "", *(["bfloat16"] if dtype == "float64" else [])):
        with pytest.raises(ValueError, match="precision: expected"):
            kernels.affine_forward(x, W, b, precision=wrong)


def test_the_level_says_whether_the_processor_multiplies():
    assert isinstance(engine.BF16, bool)
    assert engine.BF16 is (engine.CPU_LEVEL == "avx512_bf16")
