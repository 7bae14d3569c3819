"""Every layer, loss, optimizer, model and way of clipping gives what its NumPy twin gives, and
refuses what it refuses, in examples that Hypothesis draws: sizes, options, strides, dtypes.

The compiled layer is given arrays of drawn strides and dtypes, its twin the same numbers as plain
arrays. A failure shows the smallest example that fails, and how it is repeated.
"""

import inspect
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import cycle

import numpy as np
import pytest
from forms import LONG, SEED, form
from problems import (
    BIDIRECTIONAL,
    DTYPES,
    LAYERS,
    LAYOUTS,
    OPTIMIZERS,
    RECURRENT,
    STACKS,
    STEPS,
    Problem,
    assert_close,
    make_problem,
    named,
    states_of,
)

import rnnfast
from rnnfast import reference
from rnnfast.kernels import engine
from rnnfast.models.language_models import LAYER_OF_CELL
from rnnfast.reference import ops as numpy_ops
from rnnfast.training.optimizers import gradient_norm

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
_HOME = tempfile.TemporaryDirectory()  # what Hypothesis writes is not for the repository
hypothesis.configuration.set_hypothesis_home_dir(_HOME.name)

pytestmark = pytest.mark.usefixtures("threads_for_small_calls")

BLOCKS = [*RECURRENT, *BIDIRECTIONAL, *(name for name in LAYERS if name in STACKS)]
OTHERS = [name for name in LAYERS if name not in BLOCKS]
# Options of a block of steps. Each is in half of all examples.
OPTIONS = (
    *("lengths", "reset", "index", "reverse", "truncate", "recurrent_dropout", "zoneout"),
    *("weight_drop", "dropout", "evaluation", "batch_part", "state", "stateful", "last"),
    *("no dx", "second call", "infer", "no gradient"),
)

# What is drawn: few things, since each takes time. ----------------------------------------------

WIDTHS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33])
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 4), WIDTHS, WIDTHS, WIDTHS)
COMMON = {
    "dtype": st.sampled_from(DTYPES),
    "sizes": SIZES,
    "seed": st.integers(0, 2**16),
    "drawn": st.tuples(*[st.integers(0, 255)] * 12),
    "threads": st.sampled_from([1, 2]),
}


def check(example, short, long, **strategies):
    """Let Hypothesis draw so many examples, and shrink what fails."""
    settings = hypothesis.settings(
        max_examples=form(short, long),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
        database=None,
        deadline=None,
        report_multiple_bugs=False,
    )
    hypothesis.seed(SEED)(settings(hypothesis.given(**strategies)(example)))()


def tell(name, counts):
    """What has been tried, where that is of interest."""
    if LONG:
        print(f"\n{name}: " + ", ".join(f"{counts[k]:,} {k}" for k in counts) + ", 0 faults")


# Strides and dtypes. ----------------------------------------------------------------------------


def plain(array):
    return array


def unaligned(array):
    memory = bytearray(array.nbytes + 1)
    view = np.ndarray(array.shape, array.dtype, memory, offset=1)
    view[...] = array
    return view


def repeated(array):
    """The first along the first axis, with stride 0."""
    return np.broadcast_to(array[:1], array.shape)


def constant(array):
    """The first along the last axis, with stride 0."""
    return np.broadcast_to(array[..., :1], array.shape)


STRIDES = [plain, *LAYOUTS, unaligned, repeated, constant]
FLOATS = [
    *("float16", "float32", "float64", ">f4", ">f8", "longdouble", "bool", "list"),
    *("int8", "uint8", ">i2", "uint16", "int32", "int64", "uint64"),
]
INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">u4", ">i8", ">u8", "list"]


class Forms:
    """Arrays in other forms, by numbers: (as they are given, the same values as plain arrays)."""

    def __init__(self, drawn):
        self._numbers = cycle(drawn)

    def _strided(self, array, of=STRIDES):
        return of[next(self._numbers) % len(of)](array)

    def weights(self, array):
        if next(self._numbers) % 16 == 1 and array.dtype == np.float64:
            return array.tolist(), array
        given = self._strided(array)
        return given, np.array(given)

    def floats(self, array, dtype=None):
        """Real numbers of any dtype; `dtype` is that of the layer, if it has one of its own."""
        number = next(self._numbers)
        kind = "" if number % 3 == 0 else FLOATS[number // 3 % len(FLOATS)]
        if kind and kind != "list":
            code = np.dtype(kind).kind
            array = {"u": np.abs, "b": np.sign}.get(code, plain)(array)
            array = array > 0 if code == "b" else array.astype(kind)
        given = self._strided(array)
        if kind == "list":
            given = given.tolist()
        base = np.array(given)
        own = np.float64 if base.dtype.newbyteorder("=") == np.float64 else np.float32
        return given, base.astype(dtype or own)

    def integers(self, array):
        kind = INTEGERS[next(self._numbers) % len(INTEGERS)] if next(self._numbers) % 2 else "i8"
        if kind == "list":
            return array.tolist(), array
        given = self._strided((np.maximum(array, 0) if "u" in kind else array).astype(kind))
        return given, np.array(given, np.int64)

    def bools(self, array):
        given = self._strided(array)
        return given, np.array(given)

    def any(self, array, dtype=None):
        if not isinstance(array, np.ndarray):
            return array, array
        if array.dtype == bool:
            return self.bools(array)
        return self.floats(array, dtype) if array.dtype.kind == "f" else self.integers(array)


def in_forms(problem, forms):
    """A problem as a compiled layer is given it, and as its twin is."""
    dtype = problem.weights[0].dtype if problem.weights else None
    groups = ("inputs", "gradients", "state")
    pairs = {g: [forms.any(a, dtype) for a in getattr(problem, g)] for g in groups}
    pairs["weights"] = [forms.weights(W) for W in problem.weights]
    last = {name: forms.any(a, dtype) for name, a in problem.last.items()}
    return [
        replace(
            problem,
            **{name: [pair[k] for pair in of_group] for name, of_group in pairs.items()},
            last={name: pair[k] for name, pair in last.items()},
        )
        for k in range(2)
    ]


# Results are compared. --------------------------------------------------------------------------

TOLERANCES = {np.dtype(np.float32): 3e-5, np.dtype(np.float64): 1e-12}


def assert_parity(run, given, base):
    """run(module, problems) returns results by name; the largest difference between those of both
    modules is 3e-5 of the largest value in float32, and 1e-12 in float64.

    Where numbers cancel each other, as in some of thousands of examples with sums of two terms, it
    is that of the numbers.
    """
    ours, twins = run(rnnfast, given), run(reference, base)
    assert ours.keys() == twins.keys()
    floats = [a for problem in base for a in problem.arrays().values() if a.dtype in TOLERANCES]
    dtype, sizes = min((a.dtype for a in floats), key=lambda dtype: dtype.itemsize), None
    for name, expected in twins.items():
        actual, expected = np.asarray(ours[name]), np.asarray(expected)
        assert actual.dtype == expected.dtype, f"{name}: {actual.dtype}, not {expected.dtype}"
        assert actual.shape == expected.shape, f"{name}: {actual.shape}, not {expected.shape}"
        if not actual.size:
            continue
        try:
            assert_close(actual, expected, TOLERANCES[dtype], name)
        except AssertionError:
            largest = max(1, *(np.abs(a).max() for a in floats))
            sizes = sizes or cancelled(run, base, twins, dtype, float(largest))
            difference = np.abs(actual - expected).max()
            if not difference <= TOLERANCES[dtype] * sizes[name] < np.inf:
                raise


def cancelled(run, problems, results, dtype, largest):
    """How large the numbers are that results are made of, by name: as a result moves where the
    input does, and never so small that a product of two numbers of the input, `largest` each, may
    not be wrong by a few units in its last place."""
    eps, rng = float(np.finfo(dtype).eps), np.random.default_rng(0)
    step, least = 4 * eps, 8 * eps * largest**2 / TOLERANCES[dtype]
    sizes = dict.fromkeys(results, least)

    def moved(array):
        if array.dtype.kind != "f":
            return array
        return array * (1 + step * rng.choice([-1, 1], array.shape)).astype(array.dtype)

    for _ in range(8):
        for name, result in run(reference, [problem.map(moved) for problem in problems]).items():
            difference = np.abs(np.asarray(result) - results[name])
            sizes[name] = max(sizes[name], float(difference.max(initial=0)) / step)
    return sizes


def numbered(k, results):
    return {f"{name}, call {k}": np.copy(value) for name, value in results.items()}


# Recurrent layers, with all that they take. -----------------------------------------------------


@dataclass
class Call(Problem):
    """A problem with arguments of forward by name."""

    options: dict = field(default_factory=dict)

    def map(self, change):
        return Call(**vars(super().map(change)), options=self.options)


# Small numbers, since Hypothesis draws nothing but zeros for many of the large ones, and of bytes.
BITS = st.tuples(*[st.integers(0, 2**6 - 1)] * 3)
assert len(OPTIONS) <= 18


def options_of(bits):
    number = bits[0] + (bits[1] << 6) + (bits[2] << 12)
    return {name for k, name in enumerate(OPTIONS) if number >> k & 1}


def block_of(name, dtype, sizes, seed, chosen, forms):
    """The problem of one call in two forms, the second plain, with arguments of forward by name."""
    N, T, *_ = sizes
    problem, rng = make_problem(name, dtype, sizes, seed), np.random.default_rng(seed)
    if "state" not in chosen:
        problem.state = []
    if "last" not in chosen:
        problem.last = {}
    options = {}
    if "lengths" in chosen:
        options["lengths"] = rng.integers(0, T + 1, N)
    if "reset" in chosen:
        options["reset"] = rng.random((N, T)) < 0.3
    if "index" in chosen:
        U = 1 + N * T // 2
        problem.inputs = [problem.inputs[0].reshape(N * T, -1)[:U]]
        options["index"] = rng.integers(0, U, (N, T))
    pairs = {k: forms.any(a) for k, a in options.items()}
    return [
        Call(**vars(each), options={name: pair[k] for name, pair in pairs.items()})
        for k, each in enumerate(in_forms(problem, forms))
    ]


def make_blocks(name, dtype, sizes, seed, chosen, drawn):
    forms = Forms(drawn)
    N, T, D, H, V = sizes
    shapes = [sizes]
    if "second call" in chosen:
        rows = N if chosen & {"stateful", "state"} else 1 + N % 3
        shapes.append((rows, 1 + T % 4, D, H, V))
    calls = [block_of(name, dtype, s, seed + k, chosen, forms) for k, s in enumerate(shapes)]
    return [list(form) for form in zip(*calls, strict=True)]


def layer_options(name, sizes, seed, chosen):
    """Arguments of the constructor, and attributes that are set."""
    cell_has_c, options = "LSTM" in name or name == "TimeStack", {"rng": seed}
    if "reverse" in chosen and "Bi" not in name and "both ways" not in name:
        options["reverse"] = True
    if "truncate" in chosen:
        options["truncate_size"] = 1 + seed % (sizes[1] + 1)
    if "recurrent_dropout" in chosen:
        options["recurrent_dropout"] = 0.3
    if "zoneout" in chosen:
        rates = [(0.25, 0.0), (0.0, 0.4), (0.2, 0.4), 0.3] if cell_has_c else [0.3]
        options["zoneout"] = rates[seed % len(rates)]
        options["zoneout_mean"] = seed % 3 > 0
    if "weight_drop" in chosen:
        options["weight_drop"] = 0.2
    if "dropout" in chosen and name in STACKS:
        options["dropout"] = 0.4
    if "stateful" in chosen and "state" not in chosen:
        options["stateful"] = True
    return options, {
        "training": "evaluation" not in chosen,
        "batch_part": (2, sizes[0] + 7) if "batch_part" in chosen else None,
    }


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_steps(name):
    """States, outputs, all gradients, what is carried and what the generator draws next."""
    counts = Counter()

    def example(dtype, sizes, seed, bits, drawn, threads):
        engine.set_num_threads(threads)
        chosen = options_of(bits)
        counts.update(["examples", *sorted(chosen)])
        options, attributes = layer_options(name, sizes, seed, chosen)

        def run(module, problems):
            layer = problems[0].layer(module, **options)
            for attribute, value in attributes.items():
                setattr(layer, attribute, value)
            results = {}
            for k, problem in enumerate(problems):
                hs = layer.forward(*problem.inputs, **problem.options)
                found = {"hs": hs, "all h": layer.hs} | states_of(layer, "h", "c")
                back = dict(problem.last, need_dx="no dx" not in chosen)
                found |= named("dx", layer.backward(*problem.gradients, **back))
                found |= layer.named_grads() | states_of(layer, "dh", "dc")
                results |= numbered(k, {n: a for n, a in found.items() if a is not None})
            if "infer" in chosen:
                states = np.stack(layer.get_state()) if "stateful" in chosen else None
                found = layer.infer(*problem.inputs, states, **problem.options)
                results |= named("infer", found)
            if "no gradient" in chosen:
                hs = layer.forward(*problem.inputs, **problem.options, need_gradient=False)
                results |= {"without": hs} | states_of(layer, "h", "c")
            return results | {"drawn next": layer.rng.random()}

        given, base = make_blocks(name, dtype, sizes, seed, chosen, drawn)
        assert_parity(run, given, base)

    check(example, 40, 24_000, bits=BITS, **COMMON)
    tell(name, counts)
    assert not LONG or min(counts.values()) >= 10_000


# Single steps, and layers and losses without a state. -------------------------------------------


@pytest.mark.parametrize("name", STEPS)
def test_single_steps(name):
    """Two of them, of batches of different sizes, with states or None."""
    counts = Counter()

    def example(dtype, sizes, seed, drawn, threads, which):
        engine.set_num_threads(threads)
        counts.update(["examples"])
        forms, calls = Forms(drawn), []
        for k in range(1 + seed % 2):
            problem = make_problem(name, dtype, (sizes[0] + k, *sizes[1:]), seed + k)
            for state in range(1, len(problem.inputs)):
                if which >> state & 1:
                    problem.inputs[state] = None
            calls.append(in_forms(problem, forms))

        assert_parity(run_calls, *map(list, zip(*calls, strict=True)))

    check(example, 20, 10_000, which=st.integers(0, 7), **COMMON)
    tell(name, counts)


def run_calls(module, problems, ready=lambda layer: None, **options):
    """Forward, backward and, where there is one, infer of one layer for each of the problems."""
    layer, results = problems[0].layer(module, **options), {}
    ready(layer)
    for k, problem in enumerate(problems):
        found = problem.forward(layer) | problem.backward(layer)
        if hasattr(layer, "infer"):
            found |= named("infer", problem.infer(layer))
        results |= numbered(k, found)
    return results


SETTINGS = {
    "TimeDropout": [{"rate": rate} for rate in (0.5, 0.0, 0.1, 0.99)],
    "TimePerplexityLoss": [{"eps": eps} for eps in (1e-8, 1)],
    "WithLoss": [{"ignore_label": label} for label in (-1, 0, 1, 100)],
}


@pytest.mark.parametrize("name", [name for name in OTHERS if name not in STEPS])
def test_other_layers_and_losses(name):
    """Two calls, of batches of different sizes."""
    counts = Counter()
    settings = next((SETTINGS[key] for key in SETTINGS if key in name), [{}])

    def example(dtype, sizes, seed, drawn, threads, setting, evaluation):
        engine.set_num_threads(threads)
        counts.update(["examples"])
        forms, calls = Forms(drawn), []
        for k in range(1 + seed % 2):
            problem = make_problem(name, dtype, (sizes[0] + k, *sizes[1:]), seed + k)
            if "ignore_label" in setting:
                ts = problem.inputs[1]
                ts[ts == -1] = setting["ignore_label"]
            if name == "TimeSoftmaxWithLoss" and seed % 5 == 1:  # one-hot targets
                problem.inputs[1] = 3 * np.eye(sizes[4])[problem.inputs[1].clip(0, sizes[4] - 1)]
            calls.append(in_forms(problem, forms))

        def ready(layer):
            layer.training = not evaluation
            layer.batch_part = (3, sizes[0] + 9) if seed % 3 else None

        def run(module, problems):
            return run_calls(module, problems, ready, **setting)

        assert_parity(run, *map(list, zip(*calls, strict=True)))

    choice = {"setting": st.sampled_from(settings), "evaluation": st.booleans()}
    check(example, 20, 10_000, **choice, **COMMON)
    tell(name, counts)


def test_embeddings_of_distinct_tokens_and_sparse_gradients():
    """Several blocks; each way to call forward and backward, mixed."""
    counts = Counter()

    def example(dtype, sizes, seed, drawn, threads, ways):
        engine.set_num_threads(threads)
        counts.update(["examples"])
        forms = Forms(drawn)
        problems = [make_problem("TimeEmbedding", dtype, sizes, seed + k) for k in range(3)]
        given, base = map(list, zip(*(in_forms(p, forms) for p in problems), strict=True))

        def run(module, problems):
            layer, results = problems[0].layer(module), {}
            for k, problem in enumerate(problems):
                (ids,), (dout,) = problem.inputs, problem.gradients
                distinct, sparse = ways >> 2 * k & 1, ways >> 2 * k + 1 & 1
                if distinct:
                    vectors, index = layer.forward_distinct(ids)
                    found = named("distinct", layer.infer_distinct(ids)) | {"index": index}
                    dout = np.asarray(dout, layer.dtype).reshape(-1, sizes[2])[: len(vectors)]
                    dout = np.resize(dout, vectors.shape)
                else:
                    vectors, found = layer.forward(ids), {"infer": layer.infer(ids)}
                layer.backward(dout, sparse=bool(sparse))
                (rows,) = layer.grad_rows()
                found |= {"vectors": vectors} | layer.named_grads()
                results |= numbered(k, found | ({} if rows is None else {"rows": rows}))
            return results

        assert_parity(run, given, base)

    check(example, 20, 10_000, ways=st.integers(0, 63), **COMMON)
    tell("TimeEmbedding, distinct and sparse", counts)


# Optimizers and clipping. -----------------------------------------------------------------------

SHAPES = [(3,), (1,), (17,), (33,), (1, 1), (5, 7), (4, 16), (2, 33), (3, 2, 5), (0,), (3, 0), ()]
KINDS = ["float32", "float64", "float32", "float64", "float16", ">f4", "longdouble"]
OF_GRADIENTS = [*KINDS, "int8", "bool", ">i4"]


WRITABLE = [plain, *(layout for layout in LAYOUTS if layout.__name__ != "read_only"), unaligned]


@dataclass
class Parameter:
    """A weight, its gradients in three steps and the rows of these, or None; and their strides."""

    W: np.ndarray
    history: list
    rows: list
    strides: list

    def strided(self, k, array):
        return self.strides[k](array.copy()) if array.ndim else array.copy()


def make_parameter(rng, drawn):
    shape, kind = SHAPES[rng.integers(len(SHAPES))], KINDS[rng.integers(len(KINDS))]
    history, rows = [], []
    for _ in range(3):
        dW, own = np.asarray(3 * rng.standard_normal(shape)), None
        if len(shape) > 1 and rng.random() < 0.7:
            own = np.flatnonzero(rng.random(shape[0]) < 0.6)
            dW[np.setdiff1d(np.arange(shape[0]), own)] = 0
        other = OF_GRADIENTS[rng.integers(len(OF_GRADIENTS))]
        history.append(dW.astype(kind if rng.random() < 0.8 else other))
        rows.append(own)
    strides = [WRITABLE[next(drawn) % len(WRITABLE)] for _ in range(4)]
    return Parameter(np.asarray(rng.standard_normal(shape)).astype(kind), history, rows, strides)


OF_OPTIMIZERS = {
    "lr": [0.1, 1e-3, 3],
    "momentum": [0.9, 0.0],
    "decay_rate": [0.99, 0.0],
    "beta1": [0.9, 0.0],
    "weight_decay": [0.0, 0.01, 0.3],  # times the rate below 1: else float16 overflows
    "lazy": [False, True],
}


@pytest.mark.parametrize("Optimizer", OPTIMIZERS)
def test_optimizers(Optimizer):
    """Three steps of several arrays; gradients have any strides and dtypes, and rows or none."""
    counts = Counter()
    takes = inspect.signature(Optimizer).parameters

    def example(seed, drawn, threads, count, clip, with_rows, choice):
        engine.set_num_threads(threads)
        counts.update(["examples"])
        options = {k: v[choice % len(v)] for k, v in OF_OPTIMIZERS.items() if k in takes}
        rng, results = np.random.default_rng(seed), []
        forms = cycle(drawn)
        parameters = [make_parameter(rng, forms) for _ in range(count)]
        for ops in (None, numpy_ops):
            optimizer, norms = Optimizer(**options, ops=ops), []
            weights = [p.W.copy() if ops else p.strided(3, p.W) for p in parameters]
            for k in range(3):
                rows = [p.rows[k] for p in parameters] if with_rows else None
                grads = [
                    p.history[k].copy() if ops else p.strided(k, p.history[k]) for p in parameters
                ]
                if clip and all(dW.dtype.kind == "f" for dW in grads):
                    function = (rnnfast.clip_grads, rnnfast.clip_values)[clip - 1]
                    norms.append(function(grads, 0.5 + clip, ops=ops, rows=rows))
                norms.append(gradient_norm(grads, ops=ops, rows=rows))
                optimizer.update(weights, grads, rows)
            state = [slot for slots in optimizer.state for slot in slots]
            results.append([*weights, *state, *norms])
        for k, (ours, expected) in enumerate(zip(*results, strict=True)):
            assert_close_dtypes(ours, expected, f"result {k}")

    draws = {
        "count": st.integers(1, 3), "clip": st.integers(0, 2), "with_rows": st.booleans(),
        "choice": st.integers(0, 11), **{k: COMMON[k] for k in ("seed", "drawn", "threads")},
    }  # fmt: skip
    check(example, 20, 10_000, **draws)
    tell(Optimizer.__name__, counts)


def assert_close_dtypes(ours, expected, name):
    """To rounding of their dtype."""
    ours, expected = np.asarray(ours), np.asarray(expected)
    assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype), name
    if ours.size:
        tolerance = max(1e-12, 200 * float(np.finfo(ours.dtype).eps))
        assert_close(ours.astype(np.float64), expected.astype(np.float64), tolerance, name)


# Language models: training, and generation. -----------------------------------------------------


@pytest.mark.parametrize("cell", LAYER_OF_CELL)
def test_language_models_and_generation(cell):
    """A step of training, then a text that the model writes."""
    counts = Counter()

    def example(dtype, sizes, seed, drawn, threads, choice, made):
        engine.set_num_threads(threads)
        counts.update(["examples"])
        N, T, D, H, V = sizes
        rng, forms = np.random.default_rng(seed), Forms(drawn)
        xs, ts = (forms.integers(rng.integers(0, V, (N, T))) for _ in range(2))
        prime = forms.integers(rng.integers(0, V, 1 + seed % 3))
        temperature, top_k, top_p, samples = choice
        options = {
            "skip_ids": [seed % V] if V > 1 and seed % 4 == 0 else [],
            "stop_ids": [seed // 7 % V] if seed % 3 == 0 else [],
            **{"temperature": temperature, "top_k": top_k, "top_p": top_p, "samples": samples},
        }
        layers, tied, *rates = made
        layer_options = {
            **{"cell": cell, "embedding": D, "hidden": H, "layers": layers},
            **{"tie_weights": tied and D == H, "dtype": dtype, "rng": seed},
            **dict(zip(("dropout", "weight_drop", "zoneout"), rates, strict=True)),
        }

        def run(module, problems):
            ops, which = (None, 0) if module is rnnfast else (numpy_ops, 1)
            dtype = problems[0].weights[0].dtype
            model = rnnfast.LanguageModel(V, **layer_options | {"dtype": dtype}, ops=ops)
            for own, W in zip(model.params, problems[0].weights, strict=True):
                own[...] = W
            results = {"loss": model.forward(xs[which], ts[which])}
            model.backward()
            results |= named("grads", model.grads)
            results |= {"predict": model.predict(xs[which]), "infer": model.infer(xs[which])[0]}
            results |= named("states", [s for states in model.get_state() for s in states])
            ids = rnnfast.generate(model, prime[which], seed % 6, **options, rng=seed)
            # they may have ended at different steps, which is a difference like others
            rows = samples or 1
            padded = np.full((rows, 6), -3)
            padded[:, : ids.shape[-1]] = ids.reshape(rows, -1)
            return {name: np.copy(a) for name, a in results.items()} | {"ids": padded}

        weights = [3 * W for W in rnnfast.LanguageModel(V, **layer_options).params]
        problems = [Problem("", weights, [], [])]
        assert_parity(run, problems, problems)

    choice = st.tuples(
        st.sampled_from([1.0, 0, 0.3, 2]),
        st.sampled_from([None, 1, 3]),
        st.sampled_from([None, 0.5, 1]),
        st.sampled_from([None, 1, 3]),
    )
    rate = st.sampled_from([0.0, 0.4])
    made = st.tuples(st.integers(1, 2), st.booleans(), rate, rate, rate)
    check(example, 20, 10_000, choice=choice, made=made, **COMMON)
    tell(f"{cell}: language models and generation", counts)


# What is refused. -------------------------------------------------------------------------------


def spoilt(value, way, axis):
    """Something like an argument, but most of it wrong."""
    array = np.asarray(value)
    axis = axis % array.ndim if array.ndim else None
    whole = array.dtype.kind in "iu"
    match way % 20:
        case 0:
            return array.take([], axis) if array.ndim else np.zeros(0, array.dtype)
        case 1:
            return np.concatenate([array, array], axis) if array.ndim else np.array([array, array])
        case 2:
            return array.take(range(array.shape[axis] - 1), axis) if array.ndim else None
        case 3:
            return array[None]
        case 4:
            return array[0] if array.ndim else [[array]]
        case 5:
            return array.astype(complex)
        case 6:
            return array.astype(str)
        case 7:
            return array.astype(object)
        case 8:
            return array.astype("datetime64[s]") if whole else array.astype("int32")
        case 9:
            return array.astype("float32" if whole or array.dtype != "float32" else "float64")
        case 10:
            return array.astype(">f4" if array.dtype.kind == "f" else bool)
        case 11:
            return array.astype("float16")
        case 12:
            return None
        case 13:
            return 3
        case 14:
            return [[1, 2], [3]]
        case 15:
            return "text"
        case 16:
            return array + (100 if whole else 1)
        case 17:
            return -2 - array if array.dtype != bool else array
        case 18:
            return array.astype("uint64") + np.uint64(2**63) if whole else array.tolist()
        case _:
            return np.moveaxis(array, 0, -1) if array.ndim else ()


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_refused_is_refused_by_both(name):
    """With the same error, at the same place; and what is taken has the same dtypes and shapes."""
    counts = Counter()

    def example(dtype, sizes, seed, bits, drawn, threads, way, axis, which):
        engine.set_num_threads(threads)
        (problem,), options, attributes = [make_problem(name, dtype, sizes, seed)], {}, {}
        problem = Call(**vars(problem))
        if name in BLOCKS:
            chosen = options_of(bits) - {"second call"}
            (problem,), _ = make_blocks(name, dtype, sizes, seed, chosen, [0])
            options, attributes = layer_options(name, sizes, seed, chosen)
        places = [
            (values, place)
            for values in (problem.weights, problem.inputs, problem.gradients, problem.state)
            for place in range(len(values))
        ]
        places += [(named, k) for named in (problem.last, problem.options) for k in named]
        values, place = places[which % len(places)]
        values[place] = spoilt(values[place], way, axis)
        outcomes = []
        for module in (rnnfast, reference):
            found = {}
            try:
                layer = problem.layer(module, **options)
                for attribute, value in attributes.items():
                    setattr(layer, attribute, value)
                found |= named("output", layer.forward(*problem.inputs, **problem.options))
                found |= states_of(layer, "h", "c") | problem.backward(layer)
            except (TypeError, ValueError) as error:
                found = (type(error), str(error))
            outcomes.append(found)
        ours, twins = outcomes
        counts.update(["refused" if isinstance(twins, tuple) else "taken"])
        if isinstance(ours, tuple) or isinstance(twins, tuple):
            assert ours == twins
        else:
            assert kinds(ours) == kinds(twins)

    draws = {
        "bits": BITS, "way": st.integers(0, 19),
        "axis": st.integers(0, 3), "which": st.integers(0, 23),
    }  # fmt: skip
    check(example, 20, 10_000, **draws, **COMMON)
    tell(f"{name}: refusals", counts)


def kinds(results):
    arrays = {name: np.asarray(value) for name, value in results.items()}
    return {name: (array.dtype, array.shape) for name, array in arrays.items()}
