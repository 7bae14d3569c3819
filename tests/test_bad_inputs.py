"""Every error of layers, losses, models and optimizers: its type, what its message says (the
argument, what was expected, what came, what to do), and that nothing has changed after it.
"""

import copy

import numpy as np
import pytest
from problems import (
    BIDIRECTIONAL,
    LAYERS,
    LAYOUTS,
    MODELS,
    OPTIMIZERS,
    RECURRENT,
    WEIGHTED,
    assert_all_close,
    class_of,
    make_problem,
    named,
    states_of,
)

import rnnfast
from rnnfast import reference
from rnnfast.training.steps import take_step

modules = pytest.mark.parametrize("module", [rnnfast, reference], ids=["compiled", "numpy"])
A = np.zeros


def zero_ids(*shape):
    return np.zeros(shape, int)


def assert_says(error, *parts):
    """The parts stand in the message in that order."""
    message, at = str(error.value), -1
    for part in parts:
        found = message.find(part, at + 1)
        assert found > at, f"{part!r} is missing, or out of place, in {message!r}"
        at = found


# Making a layer. ------------------------------------------------------------------------------

RNN_WEIGHTS = [
    ("Wx", (A((3, 5)), A((4, 4)), A(4)), "expected an array of shape (D, 4)", "got (3, 5)"),
    ("Wx", (A(3), A((4, 4)), A(4)), "expected an array of shape (D, 4)", "got (3,)"),
    ("Wx", (A((0, 4)), A((4, 4)), A(4)), "(D, 4)", "got (0, 4) (sizes must be at least 1)"),
    ("Wh", (A((3, 4)), A((4, 5)), A(4)), "expected an array of shape (H, 4)", "got (4, 5)"),
    ("b", (A((3, 4)), A((4, 4)), A(5)), "expected an array of shape (4,)", "got (5,)"),
    ("b", (A((3, 4)), A((4, 4)), A((1, 4))), "expected an array of shape (4,)", "got (1, 4)"),
]


@modules
@pytest.mark.parametrize("name", ["RNN", "TimeRNN"])
@pytest.mark.parametrize(("argument", "weights", "expected", "got"), RNN_WEIGHTS)
def test_shapes_of_rnn_weights(name, argument, weights, expected, got, module):
    with pytest.raises(ValueError, match=f"^{argument}: ") as error:
        getattr(module, name)(*weights)
    assert_says(error, expected, got)


@modules
@pytest.mark.parametrize("name", ["LSTM", "TimeLSTM"])
@pytest.mark.parametrize(
    ("argument", "weights", "expected", "got"),
    [
        ("Wx", (A((3, 4)), A((4, 16)), A(16)), "(D, 16)", "got (3, 4)"),
        ("Wh", (A((3, 16)), A((4, 4)), A(16)), "(H, 16)", "got (4, 4)"),
        ("b", (A((3, 16)), A((4, 16)), A(4)), "(16,)", "got (4,)"),
    ],
)
def test_shapes_of_lstm_weights(name, argument, weights, expected, got, module):
    with pytest.raises(ValueError, match=f"^{argument}: ") as error:
        getattr(module, name)(*weights)
    assert_says(error, expected, got)


@modules
@pytest.mark.parametrize(
    ("name", "argument", "weights", "expected", "got"),
    [
        ("TimeEmbedding", "W", (A(3),), "expected an array of shape (V, D)", "got (3,)"),
        ("TimeEmbedding", "W", (A((3, 0)),), "(V, D)", "got (3, 0) (sizes must be at least 1)"),
        ("TimeAffine", "W", (A((2, 3, 4)), A(4)), "(D, 4)", "got (2, 3, 4)"),
        ("TimeAffine", "b", (A((3, 4)), A(3)), "expected an array of shape (4,)", "got (3,)"),
    ],
)
def test_shapes_of_other_weights(name, argument, weights, expected, got, module):
    with pytest.raises(ValueError, match=f"^{argument}: ") as error:
        getattr(module, name)(*weights)
    assert_says(error, expected, got)


@modules
@pytest.mark.parametrize("dtype", ["int64", "float16", "complex64", "bool", "O", ">f4"])
@pytest.mark.parametrize("name", ["RNN", "LSTM", "TimeRNN", "TimeLSTM", "TimeAffine"])
def test_dtype_of_weights(name, dtype, module):
    weights = [W.astype(dtype) for W in make_problem(name).weights]
    with pytest.raises(TypeError, match=r"^Wx?: expected dtype float32 or float64") as error:
        getattr(module, name)(*weights)
    assert_says(error, f"got {np.dtype(dtype)}", "convert it with W", ".astype(numpy.float32)")


@modules
def test_one_dtype_for_all_weights(module):
    Wx, Wh, b = make_problem("TimeLSTM").weights
    with pytest.raises(TypeError, match=r"^Wh: ") as error:
        module.TimeLSTM(Wx, Wh.astype("f"), b)
    assert_says(error, "expected float64 as Wx has", "got float32", "give all weights of a layer")


# Calling a layer. -----------------------------------------------------------------------------


def results_of(layer):
    """Copies of what an error may not touch."""
    states = states_of(layer, "h", "c", "dh", "dc")
    return {key: np.copy(a) for key, a in (named("grads", layer.grads) | states).items()}


def assert_nothing_changes(problem, module, error_type, call, *parts):
    """`call(layer)` fails, `parts` stand in the message, and the layer is as it was."""
    layer = problem.layer(module)
    problem.forward(layer)
    gradients = {key: np.copy(a) for key, a in problem.backward(layer).items()}
    before = results_of(layer)
    with pytest.raises(error_type) as error:
        call(layer)
    assert_says(error, *parts)
    assert_all_close(results_of(layer), before, 1e-30)
    assert_all_close(problem.backward(layer), gradients, 1e-30)


N, T, D, H, V = 3, 5, 4, 6, 7  # the sizes of every problem
EXPECTED = "expected an array of shape "
LAST = "the gradient has the shape of what forward returned last"
RESET = "reset_state() or set_state() fits the state to a batch of another size"
CALLS = [
    # layer, method, arguments, options, the parts of the message
    ("TimeRNN", "forward", [A((N, T, 9))], {}, ["xs: ", EXPECTED, "(N, T, 4)", "got (3, 5, 9)"]),
    ("TimeRNN", "forward", [A((N, D))], {}, ["xs: ", EXPECTED, "(N, T, 4)", "got (3, 4)"]),
    ("TimeRNN", "forward", [A((N, 0, D))], {}, ["xs: ", "got (3, 0, 4)", "at least 1"]),
    ("TimeRNN", "forward", [A((0, T, D))], {}, ["xs: ", "got (0, 5, 4)", "at least 1"]),
    ("TimeRNN", "forward", [A((2, T, D))], {}, ["h: ", EXPECTED, "(2, 6)", "got (3, 6)", RESET]),
    ("TimeRNN", "backward", [A((N, 4, H))], {}, ["dhs: ", "(3, 5, 6)", "got (3, 4, 6)", LAST]),
    ("TimeRNN", "backward", [A((1, T, H))], {}, ["dhs: ", "(3, 5, 6)", "got (1, 5, 6)", LAST]),
    ("TimeRNN", "backward", [A((N, T, H))], {"dh": A(H)}, ["dh: ", "(3, 6)", "got (6,)", LAST]),
    ("TimeRNN", "set_state", [A((N, 5))], {}, ["h: ", EXPECTED, "(N, 6)", "got (3, 5)"]),
    ("TimeLSTM", "forward", [A((N, T, 9))], {}, ["xs: ", EXPECTED, "(N, T, 4)", "got (3, 5, 9)"]),
    ("TimeLSTM", "forward", [A((2, T, D))], {}, ["h: ", EXPECTED, "(2, 6)", "got (3, 6)", RESET]),
    ("TimeLSTM", "backward", [A((N, T, 5))], {}, ["dhs: ", "(3, 5, 6)", "got (3, 5, 5)", LAST]),
    ("TimeLSTM", "backward", [A((N, T, H))], {"dc": A((N, 1))}, ["dc: ", "(3, 6)", "got (3, 1)"]),
    ("TimeLSTM", "set_state", [A((N, H)), A((N, 5))], {}, ["c: ", "(N, 6)", "got (3, 5)"]),
    ("RNN", "forward", [A((N, 9)), A((N, H))], {}, ["x: ", EXPECTED, "(N, 4)", "got (3, 9)"]),
    ("RNN", "forward", [A((N, D)), A((2, H))], {}, ["h_prev: ", "(3, 6)", "got (2, 6)", "row"]),
    ("RNN", "backward", [A((N, 5))], {}, ["dh_next: ", EXPECTED, "(3, 6)", "got (3, 5)", LAST]),
    ("LSTM", "forward", [A((N, D)), A((N, H)), A(H)], {}, ["c_prev: ", "(3, 6)", "got (6,)"]),
    ("LSTM", "backward", [A((N, H)), A((1, H))], {}, ["dc_next: ", "(3, 6)", "got (1, 6)", LAST]),
    ("TimeEmbedding", "forward", [zero_ids(N)], {}, ["xs: ", EXPECTED, "(N, T)", "got (3,)"]),
    ("TimeEmbedding", "backward", [A((N, T, 5))], {}, ["dout: ", "(3, 5, 4)", "got (3, 5, 5)"]),
    ("TimeAffine", "forward", [A((N, T, 9))], {}, ["x: ", EXPECTED, "(N, T, 4)", "got (3, 5, 9)"]),
    ("TimeAffine", "backward", [A((N, T, 9))], {}, ["dout: ", "(3, 5, 7)", "got (3, 5, 9)"]),
    ("TimeDropout", "forward", [A(N)], {}, ["xs: ", EXPECTED, "(N, T)", "got (3,)"]),
    ("TimeDropout", "backward", [A((N, T))], {}, ["dout: ", EXPECTED, "(3, 5, 4)", "got (3, 5)"]),
    ("Attention", "forward", [A((N, H)), A((N, T, H))], {}, ["hs_enc: ", "(N, S, H)", "(3, 6)"]),
    ("Attention", "backward", [A((N, V, H))], {}, ["dout: ", EXPECTED, "(3, 5, 6)", "(3, 7, 6)"]),
    ("TimeSigmoidWithLoss", "forward", [A(N), A(N)], {}, ["xs: ", EXPECTED, "(N, T)", "got (3,)"]),
    (
        "TimeSoftmaxWithLoss",
        "forward",
        [A((N, V)), zero_ids(N)],
        {},
        ["xs: ", "(N, T, V)", "got (3, 7)"],
    ),
    (
        "TimeSoftmaxWithLoss",
        "forward",
        [A((N, T, V)), zero_ids(N)],
        {},
        ["ts: ", "(3, 5)", "got (3,)"],
    ),
    (
        "TimeSoftmaxWithLoss",
        "forward",
        [A((N, T, V)), zero_ids(N, T, 1)],
        {},
        ["ts: ", "(3, 5, 7)", "got (3, 5, 1)", "one-hot targets have the shape of the logits"],
    ),
]


@modules
@pytest.mark.parametrize(("name", "method", "arguments", "options", "parts"), CALLS)
def test_shapes_of_arguments(name, method, arguments, options, parts, module):
    def call(layer):
        getattr(layer, method)(*arguments, **options)

    assert_nothing_changes(make_problem(name), module, ValueError, call, *parts)


@modules
@pytest.mark.parametrize("value", [np.full((N, T, D), "a"), np.full((N, T, D), 1j), None, "text"])
@pytest.mark.parametrize("name", ["TimeRNN", "TimeLSTM", "TimeAffine"])
def test_arguments_that_are_no_numbers(name, value, module):
    says = "expected an array of real numbers", "got dtype", "convert it with numpy.asarray(x"
    problem = make_problem(name)
    assert_nothing_changes(problem, module, TypeError, lambda layer: layer.forward(value), *says)
    says = says[:2]
    assert_nothing_changes(problem, module, TypeError, lambda layer: layer.backward(value), *says)


@modules
@pytest.mark.parametrize("value", [-2, 7, 2**40, -(2**40)])
def test_ids_out_of_range(value, module):
    """With the first position at which that is, and the value."""
    ids = zero_ids(N, T)
    ids[1, 3] = ids[2, 0] = value
    says = ["token ids in 0..6", f"got {value} at position (1, 3)", "check the vocabulary"]
    problem = make_problem("TimeEmbedding")
    assert_nothing_changes(
        problem, module, ValueError, lambda layer: layer.forward(ids), "xs: ", *says
    )
    problem = make_problem("TimeSoftmaxWithLoss")

    def call(layer):
        layer.forward(problem.inputs[0], ids)

    says.insert(1, "or the ignored label -1")
    assert_nothing_changes(problem, module, ValueError, call, "ts: ", *says)


@modules
def test_ignored_label_is_no_id_of_an_embedding(module):
    with pytest.raises(ValueError, match=r"xs: .* 0\.\.2, got -1 at position \(0, 1\)"):
        module.TimeEmbedding(A((3, 2))).forward([[0, -1]])
    layer = module.TimeSoftmaxWithLoss()
    layer.ignore_label = 5
    with pytest.raises(ValueError, match=r"ts: .* or the ignored label 5, got -1 at"):
        layer.forward(A((1, 2, 3)), [[5, -1]])


@modules
def test_unsigned_ids_do_not_wrap_around(module):
    """2**64 - 1 is no -1, neither for ids nor for the ignored label."""
    ids = np.array([[1, 2**64 - 1]], np.uint64)
    for call in (
        lambda: module.TimeEmbedding(A((3, 2))).forward(ids),
        lambda: module.TimeSoftmaxWithLoss().forward(A((1, 2, 3)), ids),
    ):
        with pytest.raises(ValueError, match=r"got 18446744073709551615 at position \(0, 1\)"):
            call()


@modules
@pytest.mark.parametrize("dtype", ["float64", "bool", "O", "U1"])
def test_ids_that_are_no_integers(dtype, module):
    ids = zero_ids(N, T).astype(dtype)
    for name, argument in (("TimeEmbedding", "xs"), ("TimeSoftmaxWithLoss", "ts")):
        problem = make_problem(name)

        def call(layer, problem=problem):
            layer.forward(*problem.inputs[:-1], ids)

        says = f"{argument}: expected token ids of an integer dtype", f"got {ids.dtype}", "astype"
        assert_nothing_changes(problem, module, TypeError, call, *says)


@modules
@pytest.mark.parametrize("name", LAYERS)
def test_backward_before_forward(name, module):
    problem = make_problem(name)
    layer = problem.layer(module)
    with pytest.raises(RuntimeError, match=f"^{class_of(name).__name__}.backward: ") as error:
        layer.backward(*problem.gradients)
    assert_says(error, "expected a forward call before it", "got none", "call forward first")
    assert not any(dW.any() for dW in layer.grads)


@modules
@pytest.mark.parametrize(
    "other", [{"dtype": "float32"}, {"sizes": (3, 5, 8, 12, 14)}], ids=["dtype", "sizes"]
)
@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_replaced_by_others_that_do_not_fit(name, other, module):
    """Below, a kernel would read and write behind the arrays of the layer as it was."""
    problem, other = make_problem(name), make_problem(name, **other)
    layer = problem.layer(module)
    problem.forward(layer)
    layer.params[:] = other.weights
    for call in (problem.forward, problem.backward, other.forward, other.backward):
        with pytest.raises(
            ValueError, match=r"^(0\.)?Wx?1?: expected shape .*, got .*; make a new layer"
        ):
            call(layer)
    assert not any(dW.any() for dW in layer.grads)


@modules
@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_and_gradients_replaced_together(name, module):
    """They fit each other, but not what forward kept: a kernel would write out of bounds."""
    problem = make_problem(name)
    other = make_problem(name, sizes=(3, 5, 8, 12, 3))
    layer = problem.layer(module)
    problem.forward(layer)
    layer.params[:] = other.weights
    layer.grads[:] = [np.zeros_like(W) for W in other.weights]
    for call in (problem.forward, problem.backward, other.forward, other.backward):
        with pytest.raises(
            ValueError, match=r"^(0\.)?Wx?1?: expected shape .*, got .*; make a new layer"
        ):
            call(layer)


@modules
@pytest.mark.parametrize("gradient", ["read-only", "list"])
@pytest.mark.parametrize("name", WEIGHTED)
def test_gradients_that_cannot_be_written(name, gradient, module):
    problem = make_problem(name)
    layer = problem.layer(module)
    problem.forward(layer)
    layer.grads[-1] = frozen(layer.grads[-1]) if gradient == "read-only" else [0.0]
    with pytest.raises(
        TypeError, match=r"^gradient of (1\.)?(W|bh?)[12]?: expected a writable array, got"
    ) as e:
        problem.backward(layer)
    assert_says(e, gradient)
    assert not any(np.any(dW) for dW in layer.grads)


def packed(array):
    """A field of packed records: not aligned, strides no multiples of the size of a number."""
    records = np.zeros(array.shape, [("flag", "i1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


UNFIT = {
    "dtype": lambda a: a.astype("f4" if a.dtype == "f8" else "f8"),
    "integers": lambda a: a.astype(int),
    "byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "smaller": lambda a: a[:-1],
    "larger": lambda a: np.concatenate((a, a)),
    "dimensions": lambda a: a[None],
    "no dimensions": lambda a: a[(0,) * a.ndim + (...,)],
    "list": lambda a: a.tolist(),
    "none": lambda _: None,
}
UNFIT_GRADIENTS = {
    "read-only": lambda a: frozen(a.copy()),
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "not aligned": packed,
}
REPLACED = [("params", kind) for kind in UNFIT] + [
    ("grads", kind) for kind in UNFIT | UNFIT_GRADIENTS
]
weighted = pytest.mark.parametrize("name", WEIGHTED)


@modules
@weighted
@pytest.mark.parametrize("at", [0, -1])
@pytest.mark.parametrize(("entries", "kind"), REPLACED)
def test_a_weight_or_a_gradient_replaced_by_one_that_does_not_fit(name, at, entries, kind, module):
    """Seen at the next call, whatever the calls before have checked."""
    problem = make_problem(name)
    layer = problem.layer(module)
    problem.forward(layer)
    arrays = getattr(layer, entries)
    arrays[at] = (UNFIT | UNFIT_GRADIENTS)[kind](arrays[at])
    # gradients that only cannot be written do not matter to forward
    calls = (problem.backward, problem.forward)[: 1 if kind in UNFIT_GRADIENTS else 2]
    for call in calls:
        with pytest.raises(
            (TypeError, ValueError), match=r"^(gradient of )?([01]\.)?(W|Wx|Wh|b|bh)[12]?: expected"
        ):
            call(layer)


@modules
@pytest.mark.parametrize("name", ["TimeRNN", "TimeLSTM", "TimeAffine"])
def test_a_weight_and_its_gradient_replaced_by_those_of_another_dtype(name, module):
    problem = make_problem(name)
    layer = problem.layer(module)
    problem.forward(layer)
    for arrays in (layer.params, layer.grads):
        arrays[-1] = arrays[-1].astype("f")
    for call in (problem.backward, problem.forward):
        with pytest.raises(TypeError, match=r"^b: .* give all weights of a layer one dtype"):
            call(layer)


@modules
@weighted
@pytest.mark.parametrize("entries", ["params", "grads"])
@pytest.mark.parametrize(
    "change", [lambda a: a[:-1], lambda a: [*a, np.zeros(1)]], ids=["few", "many"]
)
def test_a_weight_or_a_gradient_too_few_or_too_many(name, entries, change, module):
    problem = make_problem(name)
    layer = problem.layer(module)
    problem.forward(layer)
    setattr(layer, entries, change(getattr(layer, entries)))
    for call in (problem.backward, problem.forward):
        with pytest.raises(ValueError, match=f"^{entries}: expected .+ arrays .*, got .+; leave"):
            call(layer)


@modules
@weighted
@pytest.mark.parametrize("change", [*LAYOUTS, packed, np.ma.asarray], ids=lambda f: f.__name__)
def test_weights_and_gradients_replaced_by_others_that_fit(name, change, module):
    """Of other strides, read-only or not aligned where they are only read, of a subclass."""
    problem = make_problem(name)
    expected = problem.run(module)
    layer = problem.layer(module)
    problem.forward(layer)
    layer.params[:] = map(change, layer.params)
    if change.__name__ not in ("read_only", "packed"):
        layer.grads[:] = map(change, layer.grads)
    with pytest.raises(RuntimeError, match="the weights of the last forward call, got another"):
        problem.backward(layer)
    if problem.state:
        layer.set_state(*problem.state)
    assert_all_close(problem.forward(layer) | problem.backward(layer), expected)


# Options of recurrent layers. -----------------------------------------------------------------

time_layers = pytest.mark.parametrize("name", [*RECURRENT, *BIDIRECTIONAL])
WHOLE = "expected whole numbers "
LENGTHS = [
    ([6, 0, 0], ValueError, [WHOLE, "in 0..5", "got 6 at position (0,)", "at most the steps"]),
    ([1, 2, -1], ValueError, [WHOLE, "in 0..5", "got -1 at position (2,)"]),
    (np.array([0, 2**64 - 1, 0], "u8"), ValueError, [WHOLE, f"got {2**64 - 1} at position (1,)"]),
    ([1, 2], ValueError, [EXPECTED, "(3,)", "got (2,)", "a length for every row"]),
    ([[1, 2, 3]], ValueError, [EXPECTED, "(3,)", "got (1, 3)"]),
    (3, ValueError, [EXPECTED, "(3,)", "got ()"]),
    ([], ValueError, [EXPECTED, "(3,)", "got (0,)"]),
    ([1.0, 2.0, 3.0], TypeError, [WHOLE, "integer dtype", "got float64", "numpy.asarray(lengths"]),
    ([True, True, False], TypeError, [WHOLE, "integer dtype", "got bool"]),
    (["1", "2", "3"], TypeError, [WHOLE, "integer dtype", "got <U1"]),
]
RESETS = [
    (A((N, T - 1), bool), ValueError, [EXPECTED, "(3, 5)", "got (3, 4)", "flag for every step"]),
    (A(N, bool), ValueError, [EXPECTED, "(3, 5)", "got (3,)"]),
    (True, ValueError, [EXPECTED, "(3, 5)", "got ()"]),
    (zero_ids(N, T), TypeError, ["expected an array of bools", "got dtype int64", "dtype=bool"]),
    (A((N, T)), TypeError, ["expected an array of bools", "got dtype float64"]),
]
GIVEN = [("lengths", *case) for case in LENGTHS] + [("reset", *case) for case in RESETS]


@modules
@time_layers
@pytest.mark.parametrize(("argument", "value", "error", "parts"), GIVEN)
def test_lengths_and_resets(name, argument, value, error, parts, module):
    problem = make_problem(name)
    (xs,) = problem.inputs
    for call in (
        lambda layer: layer.forward(xs, **{argument: value}),
        lambda layer: layer.forward(xs, **{argument: value}, need_gradient=False),
        lambda layer: layer.infer(xs, **{argument: value}),
    ):
        assert_nothing_changes(problem, module, error, call, f"{argument}: ", *parts)


@modules
@time_layers
def test_an_index_is_looked_at_within_lengths_alone(name, module):
    """Its shape is that of the block, and its dtype counts."""
    problem = make_problem(name)
    rows, index = problem.inputs[0].reshape(N * T, D), np.arange(N * T).reshape(N, T)
    index[1, 3] = -1
    says = "index: expected rows of xs in 0..14", "got -1 at position (1, 3)"

    def refused(error, *parts, **options):
        def call(layer):
            layer.forward(rows, **{"index": index, "lengths": [5, 4, 5]} | options)

        assert_nothing_changes(problem, module, error, call, *parts)

    refused(ValueError, *says)
    refused(ValueError, *says, lengths=None)
    refused(ValueError, "index: ", "(N, T)", "got (3,)", index=index[:, 0])
    refused(ValueError, "lengths: ", "(3,)", "got (2,)", lengths=[5, 3])
    refused(TypeError, "index: ", "integer dtype", "got float64", index=index * 1.0)
    refused(TypeError, "index: ", "integer dtype", "got bool", index=index > 0)
    problem.layer(module).forward(rows, index=index, lengths=[5, 3, 5])


RATES = ["recurrent_dropout", "zoneout", "weight_drop"]


@time_layers
@pytest.mark.parametrize("value", [-0.1, 1, 1.5, np.nan, np.inf, "0.1", None, True, [0.1]])
@pytest.mark.parametrize("argument", RATES)
def test_rates(name, argument, value):
    """Where a layer is made, and where they are set."""
    problem = make_problem(name)
    layer = problem.make(rnnfast, rng=0, **{argument: 0.25})
    for call in (
        lambda: problem.make(rnnfast, **{argument: value}),
        lambda: setattr(layer, argument, value),
    ):
        with pytest.raises(ValueError, match=f"^{argument}: expected a number in 0 <= ") as error:
            call()
        assert_says(error, f"got {value!r}")
    assert getattr(layer, argument) == 0.25


@time_layers
@pytest.mark.parametrize("value", [(0.1,), (0.1, 0.2), (0.1, 0.2, 0.3), (), "hc"])
def test_rates_of_states_that_there_are_not(name, value):
    problem, several = make_problem(name), "LSTM" in name
    if several and len(value) == 2 and value != "hc":
        return
    with pytest.raises(ValueError, match=r"^zoneout: expected a number in 0 <= zoneout < 1") as e:
        problem.make(rnnfast, zoneout=value)
    reason = "or one for each of h, c" if several else f"{name.split()[0]} has the state h alone"
    assert_says(e, reason, f"got {value!r}")


@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.parametrize("value", [-0.1, 1, np.nan, "0.1"])
@pytest.mark.parametrize("name", ["TimeLSTM", "TimeBiLSTM"])
def test_rates_of_each_state(name, value, k):
    rates = [0.5, 0.5]
    rates[k] = value
    with pytest.raises(ValueError, match=rf"^zoneout\[{k}\]: expected a number in 0 <=") as error:
        make_problem(name).make(rnnfast, zoneout=rates)
    assert_says(error, f"got {value!r}")


@time_layers
@pytest.mark.parametrize(
    ("value", "kind"), [("0", TypeError), (1.5, TypeError), (True, TypeError), (-1, ValueError)]
)
def test_generators(name, value, kind):
    problem = make_problem(name)
    layer = problem.make(rnnfast, weight_drop=0.5, rng=0)
    before = layer.rng
    for call in (
        lambda: problem.make(rnnfast, rng=value),
        lambda: setattr(layer, "rng", value),
    ):
        with pytest.raises(kind, match=r"^rng: expected a ") as error:
            call()
        assert_says(error, f"got {value!r}")
    assert layer.rng is before


@pytest.mark.parametrize("value", ["sigmoid", "Relu", "", None, 3, ["relu"]])
@pytest.mark.parametrize("name", ["RNN", "TimeRNN", "TimeBiRNN"])
def test_activations(name, value):
    with pytest.raises(ValueError, match=r"^activation: expected one of tanh, relu, got ") as error:
        make_problem(name).make(rnnfast, activation=value)
    assert_says(error, repr(value))


@pytest.mark.parametrize("name", ["GRU", "TimeGRU", "TimeBiGRU"])
def test_a_bias_that_only_one_form_has(name):
    problem, biases = make_problem(name), ["bh1", "bh2"] if "Bi" in name else ["bh"]
    for bias in biases:
        for options in ({}, {"reset_after": False}):
            with pytest.raises(ValueError, match=f"^{bias}: expected None") as error:
                problem.make(rnnfast, **{bias: np.zeros(18)}, **options)
            assert_says(error, "only with reset_after=True", "got ndarray", "leave it out")
        with pytest.raises(ValueError, match=rf"^{bias}: expected an array of shape \(18,\)"):
            problem.make(rnnfast, **{bias: np.zeros(6)}, reset_after=True)
        with pytest.raises(TypeError, match=rf"^{bias}: expected float64 as Wx1? has, got float32"):
            problem.make(rnnfast, **{bias: np.zeros(18, "f")}, reset_after=True)


@pytest.mark.parametrize("value", ["yes", 1, None])
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *[("TimeRNN", "reverse"), ("TimeBiLSTM", "zoneout_mean"), ("TimeLSTM", "zoneout_mean")],
        *[("GRU", "reset_after"), ("TimeGRU", "reset_after"), ("TimeBiGRU", "reset_after")],
    ],
)
def test_options_that_are_true_or_false(name, argument, value):
    with pytest.raises(TypeError, match=f"^{argument}: expected True or False, got ") as error:
        make_problem(name).make(rnnfast, **{argument: value})
    assert_says(error, repr(value))


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_weights_of_two_directions_that_do_not_fit(name):
    problem, other = make_problem(name), make_problem(name, sizes=(N, T, D + 1, H, V))
    half = len(problem.weights) // 2
    problem.weights[half] = other.weights[half]
    with pytest.raises(ValueError, match=r"^Wx2: expected an array of shape \(4, .*got \(5, "):
        problem.make(rnnfast)
    problem = make_problem(name)
    problem.weights[half + 1] = problem.weights[half + 1][:-1]
    with pytest.raises(ValueError, match=r"^Wh2: expected an array of shape \(6, .*got \(5, "):
        problem.make(rnnfast)


@modules
@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_states_of_two_directions(name, module):
    problem = make_problem(name)
    (xs,), (dhs,) = problem.inputs, problem.gradients

    def refused(call, *parts):
        assert_nothing_changes(problem, module, ValueError, call, *parts)

    refused(lambda layer: layer.set_state(A((N, H))), "h: ", EXPECTED, "(2, N, 6)", "got (3, 6)")
    refused(lambda layer: layer.set_state(A((1, N, H))), "h: ", "(2, N, 6)", "got (1, 3, 6)")
    if len(problem.state) == 2:
        h, c = A((2, N, H)), A((2, N + 1, H))
        refused(lambda layer: layer.set_state(h, c), "c: ", "(2, 3, 6) as h has", "got (2, 4, 6)")
    refused(lambda layer: layer.forward(xs[:2]), "h: ", "(2, 2, 6)", "got (2, 3, 6)", RESET)
    refused(lambda layer: layer.backward(dhs[..., :H]), "dhs: ", "(3, 5, 12)", "got (3, 5, 6)")
    refused(lambda layer: layer.backward(dhs, dh=A((N, H))), "dh: ", "(2, 3, 6)", "got (3, 6)")
    S = len(problem.state)
    states = A((S, N, H))
    refused(lambda layer: layer.infer(xs, states), "states: ", f"({S}, 2, 3, 6)", f"({S}, 3, 6)")


@pytest.mark.parametrize("stateful", ["False", None, 1, np.zeros(3)])
@pytest.mark.parametrize("name", ["TimeRNN", "TimeLSTM", "TimeGRU", "TimeBiLSTM"])
def test_stateful_is_a_flag(name, stateful):
    """Not the bias that another library has in its place."""
    weights = make_problem(name).weights
    with pytest.raises(TypeError, match=r"^stateful: expected True or False, got"):
        getattr(rnnfast, name)(*weights, stateful)


@pytest.mark.parametrize("argument", ["xs", "index", "lengths", "reset", "states"])
def test_rows_of_different_lengths(argument):
    layer = make_problem("TimeLSTM").layer(rnnfast)
    (xs,) = make_problem("TimeLSTM").inputs
    ragged = [[1.0, 2.0], [3.0]]
    given = {"xs": xs if argument != "index" else xs[0], argument: ragged}
    with pytest.raises(ValueError, match=rf"^{argument}: expected an array, got rows of different"):
        layer.infer(**given)


# Models. --------------------------------------------------------------------------------------

models = pytest.mark.parametrize("Model", MODELS)


@models
@pytest.mark.parametrize("value", [0, -1, 2.0, "3", None, True])
@pytest.mark.parametrize("argument", ["vocab_size", "wordvec_size", "hidden_size", "num_layers"])
def test_sizes_of_models(Model, argument, value):
    sizes = {"vocab_size": 5, "wordvec_size": 3, "hidden_size": 3, argument: value}
    with pytest.raises(ValueError, match=f"^{argument}: ") as error:
        Model(**sizes)
    assert_says(error, "expected a whole number of at least 1", f"got {value!r}")


@models
def test_tied_weights_need_equal_sizes(Model):
    with pytest.raises(ValueError, match=r"^tie_weights: ") as error:
        Model(5, 3, 4, tie_weights=True)
    assert_says(
        error, "equal sizes of embedding and hidden state", "got 3 and 4", "embedding's table"
    )


@models
@pytest.mark.parametrize("dtype", [int, "float16", complex])
def test_dtype_of_models(Model, dtype):
    """Found before any random number is drawn."""
    np.random.seed(0)
    with pytest.raises(TypeError, match=r"^dtype: ") as error:
        Model(5, 3, 4, dtype=dtype)
    assert_says(error, "expected float32 or float64", f"got {np.dtype(dtype)}")
    drawn = np.random.randn()
    np.random.seed(0)
    assert np.random.randn() == drawn


@models
@pytest.mark.parametrize(
    ("xs", "ts", "says"),
    [
        (np.full((2, 3), 5), zero_ids(2, 3), "xs: .* got 5 at position"),
        (zero_ids(2, 3), np.full((2, 3), 5), "ts: .* got 5 at position"),
        (zero_ids(2, 3), zero_ids(2, 4), r"ts: .*\(2, 3\), got \(2, 4\)"),
        (zero_ids(2, 3), A((2, 3)), "ts: .* integer dtype, got float64"),
        (zero_ids(4, 3), zero_ids(4, 3), r"h: .*\(4, 4\), got \(2, 4\); reset_state"),
    ],
)
def test_models_keep_their_state_after_an_error(Model, xs, ts, says):
    model = Model(5, 3, 4, num_layers=2, dtype=np.float64)
    rng = np.random.default_rng(0)
    good = rng.integers(0, 5, (2, 2, 3))
    model.forward(*good)
    model.backward()
    states = [np.array(part) for part in model.get_state()]
    grads = [dW.copy() for dW in model.grads]
    with pytest.raises((ValueError, TypeError), match=says):
        model.forward(xs, ts)
    for now, before in zip(model.get_state(), states, strict=True):
        np.testing.assert_array_equal(np.array(now), before)
    for now, before in zip(model.grads, grads, strict=True):
        np.testing.assert_array_equal(now, before)


def test_models_draw_the_same_after_an_error_and_keep_nothing_for_backward():
    rng = np.random.default_rng(0)
    stack = rnnfast.TimeStack("lstm", 3, 4, 2, dropout=0.5, rng=0, stateful=True, dtype=np.float64)
    affine = rnnfast.TimeAffine(rng.standard_normal((4, 2)), np.zeros(2))
    network = rnnfast.Network([stack, affine], rnnfast.TimeSquaredLoss())
    xs, ts = rng.standard_normal((2, 5, 3)), rng.standard_normal((2, 5, 2))
    network.forward(xs, ts)
    drawn, carried = network.random_state(), copy.deepcopy(network.get_state())
    expected = network.forward(-xs, ts)
    network.set_random_state(drawn)
    network.set_state(carried)
    for fails in (
        lambda: network.forward(-xs, ts[:1]),
        lambda: take_step(network, rnnfast.SGD(0.1), -xs, ts * np.inf),
    ):
        with pytest.raises((ValueError, rnnfast.TrainingDiverged), match=r"ts: |the loss is inf"):
            fails()
        assert network.random_state() == drawn
        np.testing.assert_array_equal(np.array(network.get_state()), np.array(carried))
        with pytest.raises(RuntimeError, match="call forward first"):
            network.backward()
    assert network.forward(-xs, ts) == expected


@models
def test_the_index_of_a_model_is_its_own(Model):
    model, ids = Model(5, 3, 4), zero_ids(2, 3)
    for call in (
        model.predict,
        model.infer,
        lambda xs, **options: model.forward(xs, ids, **options),
    ):
        with pytest.raises(
            TypeError, match=r"^index: expected no such keyword argument; .*lengths"
        ):
            call(ids, index=ids)


def test_options_that_ask_for_more_weights_than_there_are():
    model = rnnfast.GruRnnlm(5, 3, 4)
    config = model.config()
    config["recurrent"][0]["reset_after"] = True
    with pytest.raises(
        rnnfast.InputError, match=r"unknown recurrent\.0\.bh|missing recurrent\.0\.bh"
    ):
        rnnfast.GruRnnlm.from_params(model.named_params(), **config)


def test_a_read_only_gradient_is_found_before_others_are_written():
    model = rnnfast.Rnnlm(5, 3, 4)
    model.forward(zero_ids(2, 3), zero_ids(2, 3))
    for dW in model.grads:
        dW[...] = 7
    model.recurrent_layers[0].grads[1].flags.writeable = False
    with pytest.raises(TypeError, match=r"^gradient of Wh: expected a writable array"):
        model.backward()
    assert all((dW == 7).all() for dW in model.grads)


@models
def test_a_deeper_layer_that_fails_rolls_back_the_first(Model):
    model = Model(5, 3, 4, num_layers=2)
    model.predict(zero_ids(2, 3))
    first, second = model.get_state()
    model.set_state([first, [part[:1] for part in second]])
    with pytest.raises(ValueError, match=r"h: .*\(2, 4\), got \(1, 4\)"):
        model.predict(zero_ids(2, 3))
    np.testing.assert_array_equal(np.array(model.get_state()[0]), np.array(first))


@models
def test_model_backward_before_forward(Model):
    message = r"expected a forward call before it, with gradient and the same ops, got none"
    with pytest.raises(RuntimeError, match=message):
        Model(5, 3, 4).backward()


# Optimizers. ----------------------------------------------------------------------------------

optimizers = pytest.mark.parametrize("Optimizer", OPTIMIZERS)


@optimizers
@pytest.mark.parametrize("value", [0, -1, np.inf, np.nan, 10**400, "0.1", None])
def test_learning_rates(Optimizer, value):
    with pytest.raises(ValueError, match=r"^lr: expected a finite number above 0, got ") as error:
        Optimizer(value)
    assert_says(error, repr(value))


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, np.nan, "0.9", None])
@pytest.mark.parametrize(
    ("Optimizer", "argument"),
    [
        (rnnfast.Momentum, "momentum"),
        (rnnfast.RMSprop, "decay_rate"),
        (rnnfast.Adam, "beta1"),
        (rnnfast.Adam, "beta2"),
        (rnnfast.AdamW, "beta1"),
    ],
)
def test_fractions(Optimizer, argument, value):
    with pytest.raises(ValueError, match=f"^{argument}: expected a number in 0 <= ") as error:
        Optimizer(**{argument: value})
    assert_says(error, f"got {value!r}")


@pytest.mark.parametrize("value", [-0.1, np.inf, np.nan, 10**400, "0.1", None, True])
@pytest.mark.parametrize("Optimizer", [rnnfast.SGD, rnnfast.Momentum, rnnfast.AdamW])
def test_weight_decays(Optimizer, value):
    message = r"^weight_decay: expected a finite number of at least 0, got "
    with pytest.raises(ValueError, match=message) as error:
        Optimizer(weight_decay=value)
    assert_says(error, repr(value))


@optimizers
def test_lazy_is_true_or_false(Optimizer):
    if Optimizer is not rnnfast.AdaGrad:
        with pytest.raises(TypeError, match=r"^lazy: expected True or False, got 1"):
            Optimizer(lazy=1)


def frozen(array):
    array.flags.writeable = False
    return array


@optimizers
@pytest.mark.parametrize(
    ("params", "grads", "says"),
    [
        ([np.ones(2)] * 2, [np.ones(2)], "^grads: expected 2 arrays as in params, got 1"),
        (
            [np.ones(2), np.ones((1, 2))],
            [np.ones(2)] * 2,
            r"^grads\[1\]: expected real numbers of shape \(1, 2\), got float64 \(2,\)",
        ),
        (
            [np.ones(2)] * 2,
            [np.ones(2), np.ones(2, complex)],
            r"^grads\[1\]: expected real numbers of shape \(2,\), got complex128 \(2,\)",
        ),
        (
            [np.ones(2), frozen(np.ones(2))],
            [np.ones(2)] * 2,
            r"^params\[1\]: expected a writable array of floats, got read-only float64; ",
        ),
        (
            [np.ones(2), np.ones(2, int)],
            [np.ones(2)] * 2,
            r"^params\[1\]: expected a writable array of floats, got int64; ",
        ),
    ],
)
def test_updates_that_do_not_fit(Optimizer, params, grads, says):
    """Nothing has moved: neither params, nor the state, nor the step count."""
    optimizer = Optimizer()
    with pytest.raises(ValueError, match=says):
        optimizer.update(params, grads)
    assert all((W == 1).all() for W in params)
    assert (optimizer.steps, optimizer.state) == (0, [])


@optimizers
def test_updates_of_another_list(Optimizer):
    optimizer = Optimizer()
    optimizer.update([np.ones(2), np.ones(3)], [np.ones(2), np.ones(3)])
    kept = [[slot.copy() for slot in slots] for slots in optimizer.state]
    W = np.ones(2)
    with pytest.raises(ValueError, match=r"^params: ") as error:
        optimizer.update([W], [np.ones(2)])
    assert_says(error, "expected the 2 arrays of the first update", "got 1", "use one optimizer")
    if optimizer.slots:
        with pytest.raises(ValueError, match=r"^params\[1\]: ") as error:
            optimizer.update([W, W], [np.ones(2)] * 2)
        assert_says(error, "expected shape (3,) as in the first update", "got (2,)", "use one")
    assert optimizer.steps == 1
    assert (W == 1).all()
    for slots, before in zip(optimizer.state, kept, strict=True):
        np.testing.assert_array_equal(slots, before)


@optimizers
def test_updates_after_an_array_has_changed(Optimizer):
    """What was good in one update may be read-only, another, or smaller in the next one."""

    def case():
        optimizer, params, grads = Optimizer(), [np.ones(2), np.ones((40, 3))], [np.ones(2)]
        grads.append(np.ones((40, 3)))
        for _ in range(2):
            optimizer.update(params, grads)
        return optimizer, params, grads

    def resize(optimizer, params, grads):
        grads[1].resize((1, 1), refcheck=False)

    def reshape(optimizer, params, grads):
        grads[1] = grads[1].reshape(3, 40)

    def freeze(optimizer, params, grads):
        params[1].flags.writeable = False

    def recast(optimizer, params, grads):
        params[1] = params[1].astype(int)

    def lose(optimizer, params, grads):
        del params[1]

    def freeze_state(optimizer, params, grads):
        for slot in optimizer.state[1]:
            slot.flags.writeable = False

    def recast_state(optimizer, params, grads):
        optimizer.state[1] = tuple(slot.astype(int) for slot in optimizer.state[1])

    for change, says in (
        (resize, r"^grads\[1\]: expected real numbers of shape \(40, 3\), got float64 \(1, 1\)"),
        (reshape, r"^grads\[1\]: expected real numbers of shape \(40, 3\), got float64 \(3, 40\)"),
        (freeze, r"^params\[1\]: expected a writable array of floats, got read-only float64"),
        (recast, r"^params\[1\]: expected a writable array of floats, got int64"),
        (lose, r"^grads: expected 1 arrays as in params, got 2"),
        (freeze_state, r"^state\[1\]: expected a writable array of floats, got read-only float64"),
        (recast_state, r"^state\[1\]: expected a writable array of floats, got int64"),
    ):
        optimizer, params, grads = case()
        if "state" in change.__name__ and not optimizer.slots:
            continue
        change(optimizer, params, grads)
        before = [W.copy() for W in params], [np.copy(slots) for slots in optimizer.state]
        with pytest.raises(ValueError, match=says):
            optimizer.update(params, grads)
        assert optimizer.steps == 2
        for now, then in zip((params, optimizer.state), before, strict=True):
            for ours, theirs in zip(now, then, strict=True):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["max_norm", "max_value"])
@pytest.mark.parametrize("value", [0, -1, np.inf, np.nan, 10**400, "1", None])
def test_clipping(value, name):
    grads = [np.ones(2)]
    clip = {"max_norm": rnnfast.clip_grads, "max_value": rnnfast.clip_values}[name]
    with pytest.raises(ValueError, match=f"^{name}: expected a finite number above 0, got"):
        clip(grads, value)
    np.testing.assert_array_equal(grads[0], 1)


@pytest.mark.parametrize("ops", [None, reference.ops], ids=["compiled", "numpy"])
@pytest.mark.parametrize("clip", [rnnfast.clip_grads, rnnfast.clip_values])
def test_clipping_changes_all_gradients_or_none(clip, ops):
    frozen = np.ones((4, 3))
    frozen.flags.writeable = False
    for last, got in ((frozen, "read-only float64"), (np.ones((4, 3), int), "int64")):
        grads = [np.ones((4, 3)), last]
        with pytest.raises(ValueError, match=rf"^grads\[1\]: .*floats, got {got}; hand over"):
            clip(grads, 0.1, ops=ops)
        np.testing.assert_array_equal(grads[0], 1)
