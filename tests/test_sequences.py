"""Recurrent functions with all their options: lengths, resets, reverse, truncation, masks, zoneout,
an index, both directions. On every module that has them, by what they mean and not by a twin.

`run_single_steps` puts together what they should return from calls of one row and one step;
central differences judge whatever has a gradient; PyTorch does in test_torch_sequences.py.
"""

import math
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from problems import DTYPES, LAYOUTS, SIZES, assert_all_close, assert_close, read_only
from sequences import (
    CELLS,
    OPS,
    OPTIONS,
    SHARED,
    both_directions,
    draw_options,
    empty_grads,
    gradients_of,
    make_block,
    run,
    run_backward,
    run_both,
    run_both_backward,
    run_both_forward,
    run_forward,
    run_single_steps,
)
from test_gradients import TOLERANCE, dot, numeric_gradient

from rnnfast import cells, kernels

# (N, T, D, H): each 1 in turn, odd ones, and more units than a panel of any kernel has; in float32
# only where sums are long enough that none vanishes beside its terms
LARGE = [(5, 2, 17, 33), (6, 7, 18, 70)]
SHAPES = [(sizes, "float64") for sizes in sorted({sizes[:4] for sizes in SIZES} | set(LARGE))]
SHAPES += [(sizes, "float32") for sizes in LARGE]
# nothing, each option alone, in reverse too, all at once
CHOICES = [
    (),
    *((name,) for name in OPTIONS),
    *(("reverse", name) for name in OPTIONS if name != "reverse"),
    OPTIONS,
]

every_ops = pytest.mark.parametrize("ops", OPS, ids=lambda ops: ops.__name__)
every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
every_choice = pytest.mark.parametrize(
    "names", CHOICES, ids=lambda names: "+".join(names) or "plain"
)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def assert_identical(actual, expected):
    """To the last bit, results by name."""
    assert actual.keys() == expected.keys()
    for name in actual:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


# What the options mean. -----------------------------------------------------------------------


@every_ops
@dtypes
@every_cell
@every_choice
def test_every_option_is_what_single_steps_make_of_it(names, cell, dtype, ops):
    """Lengths are rows on their own, resets split them, reverse flips them, and so on."""
    block = make_block(cell, (4, 6, 3, 5), names, dtype)
    assert_all_close(run(ops, block), run_single_steps(ops, block))


@every_ops
@every_cell
@pytest.mark.parametrize(
    "sizes", [(4, 6, 5, 5), (1, 6, 5, 5), (4, 1, 5, 5), (3, 40, 33, 33)], ids=str
)
@pytest.mark.parametrize("names", [names for names in CHOICES if "index" not in names])
def test_a_layer_reads_the_outputs_of_another_where_they_stand(names, sizes, cell, ops):
    """Two layers, twice: after the second time everything is as it is with copies."""
    lower = make_block(cell, sizes, names)
    upper = make_block(cell, sizes, names, seed=1)
    upper.options |= {name: lower.options[name] for name in SHARED if name in lower.options}
    caches, results = [None, None], []
    for copies in (True, False, False):
        below, caches[0] = run_forward(ops, lower, cache=caches[0], copy_hs=copies)
        upper.xs = below["hs"]
        above, caches[1] = run_forward(ops, upper, cache=caches[1], copy_xs=copies)
        back = run_backward(ops, upper, caches[1])
        found = [below, above, back, run_backward(ops, lower, caches[0])]
        results.append([{name: array.copy() for name, array in each.items()} for each in found])
    for again in results[1:]:
        for ours, expected in zip(again, results[0], strict=True):
            assert_identical(ours, expected)


@every_ops
@every_cell
@pytest.mark.parametrize(("sizes", "dtype"), SHAPES, ids=str)
def test_drawn_options_in_all_shapes(sizes, dtype, cell, ops):
    for seed in range(12):
        block = make_block(cell, sizes, draw_options([seed, *sizes]), dtype, seed)
        assert_all_close(run(ops, block), run_single_steps(ops, block))


@every_ops
@every_cell
@pytest.mark.parametrize("seed", range(6))
def test_both_directions_are_two_layers(seed, cell, ops):
    names = draw_options(seed) if seed else ()
    ahead, back = (make_block(cell, (4, 5, 3, 7), names, seed=k) for k in (seed, seed + 100))
    ahead, back = both_directions(ahead, back)
    one, other = run(ops, ahead), run(ops, back)
    expected = {name: np.stack([one[name], other[name]]) for name in one}
    expected["hs"] = np.concatenate([one["hs"], other["hs"]], axis=2)
    expected["dxs"] = one["dxs"] + other["dxs"]
    assert_all_close(run_both(ops, (ahead, back)), expected)


@every_ops
@every_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_is_not_looked_at(reverse, cell, ops):
    """NaN and ids of no row in it change nothing, and what is returned there is 0."""
    lengths = np.array([3, 0, 6, 1, 0])
    for names in (("lengths", "reset"), ("lengths", "index")):
        block, other = (make_block(cell, (5, 6, 3, 5), names, seed=k) for k in range(2))
        block.options |= {"lengths": lengths, "reverse": reverse}
        padding = ~block.exists
        dirty, dirty_other = block.map(np.copy), other.map(np.copy)
        dirty.dhs[padding] = dirty_other.dhs[padding] = np.nan
        if "index" in names:
            dirty.options["index"] = np.where(padding, 10**12, block.options["index"])
        else:
            dirty.xs[padding] = np.nan
            dirty.options["reset"] = padding | block.options["reset"]

        results = run(ops, dirty)
        assert_identical(results, run(ops, block))
        in_places = [results["hs"], *results["all states"]]
        if "index" not in names:
            in_places.append(results["dxs"])
        for array in in_places:
            assert not array[padding].any()
        # a row without steps keeps its state
        np.testing.assert_array_equal(results["last"][:, lengths == 0], block.states[:, [1, 4]])
        np.testing.assert_array_equal(results["dstates"][:, lengths == 0], block.dlast[:, [1, 4]])

        blocks, dirty = both_directions(block, other), both_directions(dirty, dirty_other)
        assert_identical(run_both(ops, dirty), run_both(ops, blocks))


@every_ops
@every_cell
def test_no_row_has_a_step(cell, ops):
    block = make_block(cell, (3, 4, 2, 5), ())
    block.options["lengths"] = np.zeros(3, np.int64)
    results = run(ops, block)
    np.testing.assert_array_equal(results.pop("last"), block.states)
    np.testing.assert_array_equal(results.pop("dstates"), block.dlast)
    for name, result in results.items():
        assert not result.any(), name


@every_ops
@every_cell
def test_a_reset_at_the_first_step_replaces_the_initial_state(cell, ops):
    """It is not even looked at, and has no gradient. In reverse it enters at the last step."""
    block = make_block(cell, (3, 4, 2, 5), ())
    reset = np.zeros((3, 4), bool)
    reset[1, 0] = True
    zeros = block.map(np.copy)
    zeros.states[:, 1] = 0
    expected = run(ops, zeros)
    expected["dstates"][:, 1] = 0
    given = replace(zeros, states=zeros.states.copy(), options={"reset": reset})
    given.states[:, 1] = np.nan
    assert_all_close(run(ops, given), expected)

    given = replace(block, options={"reset": reset, "reverse": True})
    assert_all_close(run(ops, given), run(ops, replace(block, options={"reverse": True})))


@every_ops
@every_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_masks_that_do_nothing(reverse, cell, ops):
    block = make_block(cell, (3, 4, 2, 5), ("lengths",))
    block.options["reverse"] = reverse
    expected = run(ops, block)
    ones, zeros = np.ones((3, 5)), np.zeros((3, 4, 5))
    nothing = ({"recurrent_mask": ones}, {"zoneouts": (zeros,) * cell.S})
    for options in (*nothing, {"zoneouts": (None,) * cell.S}, nothing[0] | nothing[1]):
        assert_all_close(run(ops, replace(block, options=block.options | options)), expected)


@every_ops
@every_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_zoneout_of_all_keeps_the_states(reverse, cell, ops):
    block = make_block(cell, (3, 4, 2, 5), ())
    block.options = {"reverse": reverse, "zoneouts": (np.ones((3, 4, 5)),) * cell.S}
    results = run(ops, block)
    assert_close(results["last"], block.states)
    assert_close(results["all states"], np.repeat(block.states[:, :, None], 4, axis=2))
    block.dlast[0] += block.dhs.sum(axis=1)
    assert_close(results["dstates"], block.dlast)
    for name in ("dxs", *gradients_of(cell)):
        assert not results[name].any(), name


@every_ops
@every_cell
def test_no_states_are_zeros(cell, ops):
    """Initial ones, and gradients of the last ones."""
    block = make_block(cell, (3, 4, 2, 5), ("lengths", "reset"))
    zeros = replace(block, states=0 * block.states, dlast=0 * block.dlast)
    assert_all_close(run(ops, replace(block, states=None, dlast=None)), run(ops, zeros))


# The cells. -----------------------------------------------------------------------------------


def unit_by_unit(cell, x, states, weights):
    """The states after one step of one row, from sums and functions of single numbers."""
    H = len(states[0])
    Wx, Wh, b, bh = (np.asarray(W).tolist() for W in (*weights, np.zeros(cell.G * H))[:4])
    h = states[0]

    def sigmoid(a):
        return 1 / (1 + math.exp(-a))

    def of_x(gate, j):
        column = cell.gates.index(gate) * H + j
        return sum(x[d] * Wx[d][column] for d in range(len(x))) + b[column]

    def of_h(gate, j, read):
        column = cell.gates.index(gate) * H + j
        return sum(read[k] * Wh[k][column] for k in range(H)) + bh[column]

    def gate(function, name):
        return [function(of_x(name, j) + of_h(name, j, h)) for j in range(H)]

    match cell.name:
        case "rnn":
            return [gate(math.tanh, "h")]
        case "rnn_relu":
            return [gate(lambda a: max(0.0, a), "h")]
        case "lstm" | "lstm_ifgo":
            f, i, o = (gate(sigmoid, name) for name in "fio")
            g = gate(math.tanh, "g")
            c = [f[j] * states[1][j] + g[j] * i[j] for j in range(H)]
            return [[o[j] * math.tanh(c[j]) for j in range(H)], c]
        case "gru" | "gru_reset_after":
            z, r = gate(sigmoid, "z"), gate(sigmoid, "r")
            if cell.name == "gru":
                read = [r[j] * h[j] for j in range(H)]
                g = [math.tanh(of_x("h", j) + of_h("h", j, read)) for j in range(H)]
            else:
                g = [math.tanh(of_x("h", j) + r[j] * of_h("h", j, h)) for j in range(H)]
            return [[(1 - z[j]) * h[j] + z[j] * g[j] for j in range(H)]]
        case "gru_rzn":
            z, r = gate(sigmoid, "z"), gate(sigmoid, "r")
            n = [math.tanh(of_x("n", j) + r[j] * of_h("n", j, h)) for j in range(H)]
            return [[(1 - z[j]) * n[j] + z[j] * h[j] for j in range(H)]]
        case _:
            raise NotImplementedError(f"the cell {cell.name}, unit by unit")


@every_ops
@every_cell
def test_one_step_unit_by_unit(cell, ops):
    block = make_block(cell, (1, 1, 3, 5), ())
    results, _ = run_forward(ops, block)
    expected = unit_by_unit(cell, block.xs[0, 0], block.states[:, 0], block.weights)
    assert_close(results["last"][:, 0], np.array(expected))


@every_ops
def test_relu(ops):
    """The gradient is 0 at 0, and NaN stays NaN."""
    block = make_block(cells.RNN_RELU, (2, 3, 2, 4), ())
    for W in block.weights:
        W[...] = 0
    results = run(ops, block)
    for name, result in results.items():
        assert not result.any(), name
    block.weights[2][1] = np.nan
    results, _ = run_forward(ops, replace(block, states=None))
    np.testing.assert_array_equal(np.isnan(results["hs"][:, 0]), [[False, True, False, False]] * 2)


@every_ops
@pytest.mark.parametrize("names", [(), OPTIONS], ids=["plain", "all"])
def test_both_forms_of_a_gru(names, ops):
    """r (h Wh) is (r h) Wh where Wh of g is diagonal. PyTorch judges the form with a bias bh."""
    after = make_block(cells.GRU_RESET_AFTER, (3, 4, 2, 5), names)
    Wx, Wh, b, bh = after.weights
    bh[...] = 0
    Wh[:, 10:] = np.diag(Wh[0, 10:])
    before = replace(after, cell=cells.GRU, weights=[Wx, Wh, b])
    results, expected = run(ops, before), run(ops, after)
    del expected["dbh"]
    for dWh in (results["dWh"], expected["dWh"]):  # beside the diagonal they differ
        dWh[:, 10:] = np.diag(np.diag(dWh[:, 10:]))
    assert_all_close(results, expected)


@every_ops
@dtypes
@pytest.mark.parametrize("names", [(), OPTIONS], ids=["plain", "all"])
def test_two_orders_of_the_columns_of_an_lstm(names, dtype, ops):
    """Forward, to the bit what the other one gives, its columns being where its gates are; back,
    the gates are summed in another order."""
    block = make_block(cells.LSTM, (3, 4, 2, 37), names, dtype)
    places = [cells.LSTM.gates.index(gate) for gate in cells.LSTM_IFGO.gates]

    def reordered(W):
        return np.concatenate([np.split(W, 4, axis=-1)[k] for k in places], axis=-1)

    weights = [reordered(W) for W in block.weights]
    results = run(ops, replace(block, cell=cells.LSTM_IFGO, weights=weights))
    expected = run(ops, block)
    for name in gradients_of(cells.LSTM):
        expected[name] = reordered(expected[name])
    assert_all_close(results, expected)
    for name in ("hs", "last", "all states") if ops is kernels else ():
        np.testing.assert_array_equal(results[name], expected[name])


# Gradients by differences. --------------------------------------------------------------------


def assert_gradients(block, results, loss):
    for name, array in block.arrays().items():
        expected = numeric_gradient(loss, array)
        assert_close(results[f"d{name}"], expected, TOLERANCE, f"d{name} of {[*block.options]}")


def loss_of(ops, block):
    """The number whose gradients `run` returns, unless they are truncated."""
    results, _ = run_forward(ops, block, need_gradient=False)
    return dot(results["hs"], block.dhs) + dot(results["last"], block.dlast)


@every_ops
@every_cell
@every_choice
def test_gradients_by_differences(names, cell, ops):
    block = make_block(cell, (3, 4, 2, 3), names)
    block.truncate = 0
    assert_gradients(block, run(ops, block), lambda: loss_of(ops, block))


@every_ops
@every_cell
@pytest.mark.parametrize("seed", range(8))
def test_gradients_of_drawn_options_by_differences(seed, cell, ops):
    rng = np.random.default_rng(seed)
    block = make_block(cell, rng.integers(1, 5, 4), draw_options(seed), seed=seed)
    block.truncate = 0
    assert_gradients(block, run(ops, block), lambda: loss_of(ops, block))


@every_ops
@every_cell
@pytest.mark.parametrize("names", [(), OPTIONS[:-1]], ids=["plain", "all"])
def test_gradients_of_both_directions_by_differences(names, cell, ops):
    blocks = both_directions(*(make_block(cell, (2, 4, 2, 3), names, seed=k) for k in range(2)))
    dhs = np.concatenate([block.dhs for block in blocks], axis=2)
    dlast = np.stack([block.dlast for block in blocks])
    results = run_both(ops, blocks)

    def loss():
        results, _ = run_both_forward(ops, blocks, need_gradient=False)
        return dot(results["hs"], dhs) + dot(results["last"], dlast)

    for k, block in enumerate(blocks):
        own = {name: result[k] for name, result in results.items() if name != "dxs"}
        assert_gradients(block, own | {"dxs": results["dxs"]}, loss)


@every_ops
@every_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_truncated_gradients_are_those_of_blocks(reverse, cell, ops):
    """Blocks of 3 steps run one by one, each from the last states of the one before."""
    block = make_block(cell, (2, 8, 3, 5), ())
    block.options["reverse"], block.truncate = reverse, 3
    expected, states, blocks = run(ops, block), block.states, []
    cuts = [slice(0, 3), slice(3, 6), slice(6, 8)]
    if reverse:
        cuts = [slice(5, 8), slice(2, 5), slice(0, 2)]
    for times in cuts:
        part = replace(block, xs=block.xs[:, times], dhs=block.dhs[:, times], states=states)
        part.truncate, part.dlast = 0, block.dlast if times is cuts[-1] else 0 * block.dlast
        blocks.append(run(ops, part))
        states = blocks[-1]["last"]
    results = {name: sum(part[name] for part in blocks) for name in gradients_of(cell)}
    results |= {"last": states, "dstates": blocks[0]["dstates"]}
    in_time = blocks[::-1] if reverse else blocks
    for name, axis in (("hs", 1), ("dxs", 1), ("all states", 2)):
        results[name] = np.concatenate([part[name] for part in in_time], axis)
    assert_all_close(results, expected)


# Memory. --------------------------------------------------------------------------------------


@every_ops
@dtypes
@every_cell
def test_nothing_is_kept_without_gradient(cell, dtype, ops):
    blocks = [make_block(cell, (3, 4, 2, 5), OPTIONS, dtype, seed=k) for k in range(2)]
    expected, cache = run_forward(ops, blocks[0])
    results, nothing = run_forward(ops, blocks[0], need_gradient=False, cache=cache)
    assert nothing is None
    assert_all_close(results, expected)

    blocks = both_directions(*blocks)
    expected, cache = run_both_forward(ops, blocks)
    results, nothing = run_both_forward(ops, blocks, need_gradient=False, cache=cache)
    assert nothing is None
    assert_all_close(results, expected)


@every_ops
@every_cell
def test_no_gradient_of_the_input(cell, ops):
    blocks = [make_block(cell, (3, 4, 2, 5), OPTIONS, seed=k) for k in range(2)]
    _, cache = run_forward(ops, blocks[0])
    expected = run_backward(ops, blocks[0], cache)
    results = run_backward(ops, blocks[0], cache, need_dx=False)
    assert results.pop("dxs") is None
    assert_all_close(results | {"dxs": expected["dxs"]}, expected)

    blocks = both_directions(*blocks)
    _, cache = run_both_forward(ops, blocks)
    expected = run_both_backward(ops, blocks, cache)
    results = run_both_backward(ops, blocks, cache, need_dx=False)
    assert results.pop("dxs") is None
    assert_all_close(results | {"dxs": expected["dxs"]}, expected)


@every_ops
@every_cell
def test_memory_handed_back(cell, ops):
    """What blocks before have left in it changes nothing, whatever their sizes and options."""
    cache = cache_of_both = None
    for seed in range(16):
        sizes, names = np.random.default_rng(seed).integers(1, 8, 4), draw_options(seed)
        blocks = [make_block(cell, sizes, names, seed=k) for k in (seed, seed + 1)]
        results, cache = run_forward(ops, blocks[0], cache=cache)
        assert_all_close(results | run_backward(ops, blocks[0], cache), run(ops, blocks[0]))
        blocks = both_directions(*blocks)
        results, cache_of_both = run_both_forward(ops, blocks, cache=cache_of_both)
        results |= run_both_backward(ops, blocks, cache_of_both)
        assert_all_close(results, run_both(ops, blocks))


@every_ops
@every_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_backward_may_be_called_again_and_depends_on_nothing_of_the_caller(reverse, cell, ops):
    """Arguments and results of forward may be overwritten; not its weights, and not its masks,
    which are as large as all that backward needs."""
    block = make_block(cell, (3, 4, 2, 5), OPTIONS)
    block.options["reverse"] = reverse
    first = run(ops, block)
    mine = block.map(np.copy)
    mine.options |= {name: mine.options[name].copy() for name in ("index", "lengths", "reset")}
    results, cache = run_forward(ops, mine)
    for array in (*results.values(), mine.xs, mine.states):
        array[...] = np.nan
    for name in ("index", "lengths", "reset"):
        mine.options[name][...] = 0
    for _ in range(2):
        results = run_backward(ops, block, cache)
        assert_identical(results, {name: first[name] for name in results})
        for array in results.values():
            array[...] = np.nan


@every_ops
@dtypes
@every_cell
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_arrays_of_any_strides_are_taken_and_left_alone(layout, cell, dtype, ops):
    block = make_block(cell, (3, 4, 2, 5), OPTIONS, dtype)
    given = block.map(layout)
    for name in ("index", "lengths", "reset"):
        given.options[name] = read_only(block.options[name])
    assert_all_close(run(ops, given), run(ops, block))
    mine, theirs = (b.arrays() | {"dhs": b.dhs, "dlast": b.dlast} for b in (given, block))
    assert_identical(mine, theirs)


# Masks. ---------------------------------------------------------------------------------------

# SplitMix64's first words from a seed: of 1234567 as the Rosetta Code has them, of 0 as tests of
# many implementations have them.
PUBLISHED = {
    1234567: [
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    ],
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC],
}


def splitmix64(seed):
    """Word after word, as the paper has it: a state that grows by a constant, then is mixed."""
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        z = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


def drawn(ops, key, probability, n, value=1.0, dtype="float64"):
    out = np.full(n + 2, 99, dtype)
    assert ops.draw_mask(key, probability, value, out[1:-1]) is None
    assert out[0] == out[-1] == 99
    return out[1:-1]


@every_ops
@pytest.mark.parametrize("seed", PUBLISHED)
def test_masks_are_drawn_from_published_words(seed, ops):
    """A word's half is drawn with the next larger number / 2^32, and not with its own."""
    words = PUBLISHED[seed]
    n = 2 * len(words)
    halves = [word % 2**32 for word in words] + [word >> 32 for word in words]
    for j, bits in enumerate(halves):
        for probability, expected in ((bits, 0), (bits + 0.4, 0), (bits + 0.6, 1), (bits + 1, 1)):
            assert drawn(ops, seed, probability / 2**32, n)[j] == expected


@every_ops
@dtypes
@pytest.mark.parametrize("key", [0, 1, 2**63 + 12345, 2**64 - 1])
def test_masks_are_those_of_a_slow_generator(key, dtype, ops):
    for n in (1, 2, 3, 31, 32, 33, 1000, 1001):
        for probability in (0.0, 1e-3, 0.3, 0.5, 0.75, 1.0):
            words = list(islice(splitmix64(key), (n + 1) // 2))
            bits = [word % 2**32 for word in words] + [word >> 32 for word in words]
            value = np.dtype(dtype).type(1 / 0.7)
            expected = [value if b < round(probability * 2**32) else 0 for b in bits[:n]]
            mask = drawn(ops, key, probability, n, 1 / 0.7, dtype)
            np.testing.assert_array_equal(mask, expected)


@every_ops
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_masks_have_the_share_asked_for(probability, ops):
    """In each half, and no key's mask is like another's."""
    masks = np.array([drawn(ops, key, probability, 20000) for key in range(4)])
    sigma = (probability * (1 - probability) / 10000) ** 0.5
    for half in (masks[:, :10000], masks[:, 10000:]):
        assert (abs(half.mean(axis=1) - probability) < 4 * sigma).all()
    correlations = np.corrcoef(np.concatenate([masks[:, :10000], masks[:, 10000:]]))
    assert abs(correlations - np.eye(8)).max() < 0.04


@every_ops
@every_cell
@dtypes
@pytest.mark.parametrize("names", [("index",), ("index", "lengths"), ("index", "reset", "reverse")])
def test_rows_of_x_that_no_step_uses_may_hold_anything(names, dtype, cell, ops):
    block = make_block(cell, (4, 6, 3, 5), names, dtype)
    index = block.options["index"]
    block.xs = np.concatenate([block.xs, np.zeros_like(block.xs[:2])])
    expected = run(ops, block)
    block.xs[-2:] = np.nan
    index[~block.exists] = len(block.xs) - 1
    results = run(ops, block)
    assert (results["dxs"][-2:] == 0).all()
    assert_identical(results, expected)


@every_cell
def test_a_forward_that_failed_leaves_what_the_one_before_has_kept(cell):
    block = make_block(cell, (4, 6, 3, 5), ())

    def kept(cache):
        grads = empty_grads(block.weights)
        arguments = block.dhs, None, cache, tuple(block.weights[:2]), grads
        dxs, dfirst = kernels.recurrent_backward(cell, *arguments)
        return dxs, dfirst, *grads, kernels.recurrent_states(cell, cache).copy()

    expected = kept(run_forward(kernels, block)[1])
    _, cache = run_forward(kernels, block)
    wrong = replace(block, weights=[W[:, :-1] if W.ndim == 2 else W for W in block.weights])
    with pytest.raises(ValueError, match="weights and gradients: expected the shapes"):
        run_forward(kernels, wrong, cache=cache)
    for found, array in zip(kept(cache), expected, strict=True):
        np.testing.assert_array_equal(found, array)


@every_cell
def test_both_directions_are_known_to_fit_before_a_gradient_is_written(cell):
    block = make_block(cell, (4, 6, 3, 5), ())
    blocks = [block, make_block(cell, (4, 6, 3, 5), (), seed=1)]
    _, cache = run_both_forward(kernels, blocks)
    grads = [[np.full_like(W, 7) for W in block.weights] for block in blocks]
    grads[0][0] = grads[0][0].reshape(1, -1)
    dhs = np.concatenate([block.dhs for block in blocks], axis=2)
    weights = [tuple(block.weights[:2]) for block in blocks]
    with pytest.raises(ValueError, match="weights and gradients: expected the shapes"):
        kernels.bidirectional_backward(cell, dhs, None, cache, weights, grads)
    assert all((dW == 7).all() for pair in grads for dW in pair)


@every_cell
@pytest.mark.parametrize("names", [(), ("reset", "recurrent_mask", "zoneouts")])
def test_many_steps_kept_or_not_copied_or_not(names, cell):
    """In several blocks, which have the same memory where nothing is kept."""
    block = make_block(cell, (4, 700, 3, 5), names)
    expected, cache = run_forward(kernels, block)
    for need_gradient in (True, False):
        for copy_hs in (True, False):
            options = {"need_gradient": need_gradient, "copy_hs": copy_hs}
            assert_all_close(run_forward(kernels, block, **options)[0], expected, 1e-300)
    first, second = (
        run_forward(kernels, block, cache=cache, copy_hs=False)[0]["hs"] for _ in range(2)
    )
    # that of the cache, which is new at every call in a debug build
    assert np.shares_memory(first, second) is not kernels.build.BOUNDS_CHECKED


@every_cell
def test_inference_keeps_no_arrays_of_the_caller(cell):
    block = make_block(cell, (4, 6, 3, 5), ("zoneouts", "recurrent_mask", "reset", "lengths"))
    arrays = [block.xs, *filter(lambda d: d is not None, block.options["zoneouts"])]
    before = [sys.getrefcount(array) for array in arrays]
    run_forward(kernels, block, need_gradient=False)
    assert [sys.getrefcount(array) for array in arrays] == before
