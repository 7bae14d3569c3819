"""A process that calls everything again and again, and says what has grown.

    PYTHONMALLOC=malloc python tests/leak_cases.py CALLS FOLDER [NAME ...]

A line of JSON for each case: what there is more of after each third of the calls. Bytes in use
are those of Python and of C alike, as glibc counts them.
"""

import contextlib
import copy
import ctypes
import gc
import itertools
import json
import mmap
import os
import pickle
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
from hostile import make
from problems import (
    BIDIRECTIONAL,
    LAYERS,
    MODELS,
    OPTIMIZERS,
    RECURRENT,
    STACKS,
    make_problem,
)

import rnnfast
from rnnfast import archive, kernels
from rnnfast.kernels import engine

SEQ2SEQ = (rnnfast.Seq2seq, rnnfast.PeekySeq2seq, rnnfast.AttentionSeq2seq)
V, D, H = 7, 4, 4
IDS = np.random.default_rng(0).integers(0, V, (2, 5))
SINGLES = [
    None,
    True,
    False,
    0,
    1,
    (),
    Ellipsis,
    "",
    np.dtype("f4"),
    np.dtype("f8"),
    np.dtype("i8"),
]
LIBC = ctypes.CDLL(None)


class Memory(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    ]


def bytes_in_use():
    """Of all arenas, and of blocks that have a mapping of their own.

    Python's cache of attributes holds up to 4,096 names, each for as long as no other is written
    over it: it is emptied, as are its free lists by a collection.
    """
    sys._clear_type_cache()
    gc.collect()
    LIBC.mallinfo2.restype = Memory
    memory = LIBC.mallinfo2()
    return memory.uordblks + memory.hblkhd


WINDOWS = 3
KINDS = ("bytes", "resident", "descriptors", "threads", "files", "references")


def counted(folder, watched):
    """What there may not be more of: a number for each of `KINDS`, of references for each thing."""
    page, seconds = mmap.PAGESIZE, 0.001
    return (
        bytes_in_use(),
        int(Path("/proc/self/statm").read_text().split()[1]) * page,
        len(os.listdir("/proc/self/fd")),
        # a thread that has ended is gone a little later
        min(len(os.listdir("/proc/self/task")) for _ in range(3) if not time.sleep(seconds)),
        sum(len(names) + len(files) for _, names, files in os.walk(folder)),
        *(sys.getrefcount(thing) for thing in (*SINGLES, *watched)),
    )


def numpy_loses(thing):
    """Whether NumPy itself forgets references to it: 2.4 does, in `np.empty(1)`."""
    before = sys.getrefcount(thing)
    for _ in range(100):
        np.empty(1)
        np.array([1])
    return sys.getrefcount(thing) - before >= 100


def things(folder, watched):
    """What there may not be more of: by name, how many."""
    found = {"descriptors": len(os.listdir("/proc/self/fd"))}
    found["threads"] = len(os.listdir("/proc/self/task"))
    found["files"] = sum(len(names) + len(files) for _, names, files in os.walk(folder))
    found["references"] = [sys.getrefcount(thing) for thing in (*SINGLES, *watched)]
    return found


def refused(function, *args, **options):
    """Call it, and expect an error."""
    with contextlib.suppress(TypeError, ValueError, RuntimeError, OSError):  # InputError too
        function(*args, **options)
        return
    refused.count += 1


refused.count = 0


# The cases: a name, a function of no arguments, and objects whose references are counted. ------


def layers():
    """Made anew, used again, and refusing what does not fit."""
    for name in LAYERS:
        problem = make_problem(name, "float32", (2, 3, 4, 5, 6))
        yield name, partial(use, problem, problem.layer(rnnfast)), problem.arrays().values()
        yield f"{name}: errors", partial(misuse, problem, problem.layer(rnnfast)), ()


def use(problem, layer):
    problem.run(rnnfast)
    problem.forward(layer)
    problem.backward(layer)
    if hasattr(layer, "infer"):
        problem.infer(layer)


def misuse(problem, layer):
    for groups in (problem.inputs, problem.gradients):
        call = layer.forward if groups is problem.inputs else layer.backward
        for k, array in enumerate(groups):
            for bad in ("text", [[1], [2, 3]], np.zeros((0, 2)), np.full((2, 3), 99), None):
                refused(call, *groups[:k], bad, *groups[k + 1 :])
            if isinstance(array, np.ndarray):
                refused(call, *groups[:k], array[..., None], *groups[k + 1 :])
                refused(call, *groups[:k], array.astype(complex), *groups[k + 1 :])
        problem.forward(layer)
    for k, W in enumerate(problem.weights):
        bad = [*problem.weights[:k], W[None], *problem.weights[k + 1 :]]
        refused(type(problem)(problem.name, bad, [], []).make, rnnfast)
        layer.params[k] = W[None]
        refused(layer.forward, *problem.inputs)
        layer.params[k] = W


def blocks():
    """With all options of a call, masks among them."""
    for name in [*RECURRENT, *BIDIRECTIONAL, *STACKS]:
        N, T = 3, 4
        problem = make_problem(name, "float64", (N, T, 4, 5, 6))
        options = {"recurrent_dropout": 0.3, "zoneout": 0.3, "weight_drop": 0.3, "rng": 0}
        options |= {"truncate_size": 3} | ({"dropout": 0.3} if name in STACKS else {})
        layer = problem.layer(rnnfast, **options)
        xs, index = problem.inputs[0].reshape(N * T, -1), IDS[:1, :T].repeat(N, 0)
        call = {"index": index, "lengths": np.array([4, 0, 2]), "reset": index % 2 == 0}
        yield f"{name}: options", partial(use_options, layer, problem, xs, call), (xs, index)


def use_options(layer, problem, xs, call):
    (dhs,) = problem.gradients
    layer.forward(xs, **call)
    layer.backward(dhs, **problem.last)
    layer.backward(dhs, need_dx=False)
    assert layer.hs is not None
    layer.forward(xs, **call, need_gradient=False)
    refused(layer.backward, dhs)
    layer.infer(xs, None, **call)
    layer.set_state(*layer.get_state())
    refused(layer.forward, xs, **call | {"lengths": np.array([9, 0, 0])})
    refused(layer.forward, xs, **call | {"index": np.full_like(call["index"], 99)})
    refused(layer.forward, xs, **call | {"reset": call["index"]})
    layer.reset_state()


def of_kernels():
    """Compiled functions refuse what are no arrays of numbers, behind arguments that they take."""
    for name in kernels.__all__:
        function = getattr(kernels, name)
        if name not in ("build", "engine"):
            good, bad = np.ones((3, 3)), np.ones((3, 3), complex)
            calls = [[good] * k + [bad] * (count - k) for count in range(1, 9) for k in (0, 1)]
            calls = [args for args in calls if refuses(function, args)]
            yield f"{name}: errors", partial(refuse_all, function, calls), ()


def refuses(function, args):
    try:
        function(*args)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return True
    return False


def refuse_all(function, calls):
    for args in calls:
        assert refuses(function, args)
        refused.count += 1


def training():
    rng = np.random.default_rng(0)
    rows = [np.array([0, 2]), None]
    for Optimizer in OPTIMIZERS:
        kept = Optimizer()
        params, grads = ([rng.standard_normal(s) for s in ((4, 3), 5)] for _ in range(2))

        def update(Optimizer=Optimizer, kept=kept, params=params, grads=grads):
            for optimizer in (kept, Optimizer()):
                optimizer.update(params, grads)
                optimizer.update(params, grads, rows)
                refused(optimizer.update, params, grads[:1])
                refused(optimizer.update, params, [grads[0], grads[1][:2]])
                refused(optimizer.update, params, [grads[0], np.zeros(5, complex)])
            refused(Optimizer, -1)

        yield Optimizer.__name__, update, (*params, *grads, *rows[:1])

    grads = [rng.standard_normal((4, 3)), rng.standard_normal(5).astype("f4")]

    def clip():
        for function in (rnnfast.clip_grads, rnnfast.clip_values):
            function(grads, 0.5)
            function(grads[:1], 0.5, rows=rows[:1])
            refused(function, grads, -1)
            refused(function, [grads[0].astype(int)], 1e-9)
            refused(function, grads, 1e-9, rows=[np.array([7]), None])

    yield "clipping", clip, grads


def models():
    for Model in MODELS:
        model = Model(V, D, H, rng=0)

        def call(Model=Model, model=model):
            for each in (model, Model(V, D, H, rng=0)):
                each.forward(IDS, IDS)
                each.backward()
                each.predict(IDS)
                each.infer(IDS)
            refused(model.forward, IDS + 9, IDS)
            refused(model.predict, IDS + 0.5)
            refused(Model, 0, D, H)
            rnnfast.evaluate(model, np.tile(IDS[0], 4))
            rnnfast.log_probabilities(model, IDS[0], IDS)

        def write(model=model):
            rnnfast.generate(model, [1, 2], 5, rng=0)
            rnnfast.generate(model, [1], 5, top_k=2, top_p=0.5, samples=3, stop_ids=[2], rng=0)
            rnnfast.generate(model, [1], 3, temperature=0, skip_ids=[0])
            next(rnnfast.stream(model, [1], 5, rng=0))  # and no more of it
            refused(rnnfast.generate, model, [], 5)
            refused(rnnfast.generate, model, [99], 5)
            refused(rnnfast.generate, model, [1], 5, top_p=2)

        yield Model.__name__, call, (IDS,)
        yield f"{Model.__name__}: generation", write, ()
    for Model in SEQ2SEQ:
        model = Model(V, D, H, rng=0)

        def call(model=model):
            model.forward(IDS, IDS)
            model.backward()
            model.predict(IDS, decoder_xs=IDS)
            model.infer(IDS, decoder_xs=IDS)
            model.generate(IDS, 1, 4)
            refused(model.forward, IDS + 9, IDS)
            refused(model.generate, IDS, 99, 4)

        yield Model.__name__, call, (IDS,)


def files(folder):
    """Models, checkpoints and texts: written, read, refused."""
    os.chdir(folder)
    model, path = rnnfast.Rnnlm(V, D, H, rng=0), folder / "model.npz"

    def save_and_load():
        model.save(path)
        rnnfast.Network.load(path)
        rnnfast.Rnnlm.load(path)
        refused(rnnfast.Seq2seq.load, path)
        refused(rnnfast.Network.load, folder / "none")
        refused(rnnfast.Network.load, folder)
        refused(model.save, folder / "none" / "model.npz")

    yield "models in files", save_and_load, ()

    (folder / "valid").mkdir()
    valid = make.valid_files(folder / "valid")
    (folder / "text.txt").write_text(make.TEXT)
    (folder / "run").mkdir()
    (folder / "run" / "last.npz").write_bytes(valid["checkpoint"].data)
    run = rnnfast.Run.resume(folder / "run", text="text.txt", verbose=False)

    def checkpoints():
        run.save()
        rnnfast.Run.load(folder / "run")
        rnnfast.Run.resume(folder / "run", text="text.txt", verbose=False)
        refused(rnnfast.Run.load, folder)

    yield "checkpoints", checkpoints, ()

    damaged = folder / "damaged.npz"
    hostile = [data for _, data in make.archives(valid["model"]) if len(data) < 1 << 20]

    def refuse_files():
        for data in hostile[next(turn) % 4 :: 4]:  # all of them in four calls
            damaged.write_bytes(data)
            refused(rnnfast.Network.load, damaged)
            refused(archive.load_archive, damaged, "model")

    turn = itertools.count()
    damaged.touch()
    yield "files that are refused", refuse_files, ()

    def vocabulary():
        words = rnnfast.Vocabulary.from_file(folder / "text.txt", level="word")
        chars = rnnfast.Vocabulary.from_text(make.TEXT)
        chars.decode(chars.encode(make.TEXT[:40]))
        words.decode(words.encode_file(folder / "text.txt"))
        refused(chars.encode, "\N{SNOWMAN}")
        refused(chars.decode, [999])
        refused(rnnfast.Vocabulary.from_file, folder / "none")
        refused(rnnfast.load_text, folder)

    yield "vocabularies", vocabulary, ()


def rest():
    problem = make_problem("TimeLSTM", "float32", (3, 4, 5, 6, 7))
    layer = problem.layer(rnnfast)

    def change_threads():
        for threads in (1, 3, 2):
            rnnfast.set_num_threads(threads)
            problem.forward(layer)
        problem.backward(layer)
        refused(rnnfast.set_num_threads, 0)
        rnnfast.get_num_threads()
        rnnfast.build_info()

    yield "set_num_threads", change_threads, ()

    def in_a_thread():
        thread = threading.Thread(target=use, args=(problem, layer))
        thread.start()
        thread.join()

    yield "in threads of Python", in_a_thread, ()

    model, optimizer = rnnfast.LanguageModel(V, embedding=D, hidden=H, dropout=0.2), rnnfast.Adam()
    model.forward(IDS, IDS)
    model.backward()
    optimizer.update(model.params, model.grads)

    def copies():
        for thing in (layer, model, optimizer):
            copy.copy(thing)
            copy.deepcopy(thing)
            pickle.loads(pickle.dumps(thing))

    yield "copies and pickles", copies, ()


# Faults on purpose, which the test must see. ----------------------------------------------------


def faults(folder):
    libc, kept, count = LIBC, [], itertools.count()
    libc.malloc.restype = ctypes.c_void_p
    reference = np.zeros(3)
    yield "leak: 16 bytes of C", partial(libc.malloc, 16), ()
    yield "leak: 16 bytes of Python", lambda: kept.append(bytes(1)), ()
    yield (
        "leak: a reference",
        lambda: ctypes.pythonapi.Py_IncRef(ctypes.py_object(reference)),
        (reference,),
    )
    yield "leak: a descriptor", lambda: os.open(os.devnull, os.O_RDONLY), ()
    yield "leak: a file", lambda: Path(folder, f"{next(count)}").touch(), ()
    event = threading.Event()
    yield "leak: a thread", lambda: threading.Thread(target=event.wait, daemon=True).start(), ()


def cases(folder):
    yield from layers()
    yield from blocks()
    yield from of_kernels()
    yield from training()
    yield from models()
    yield from files(folder)
    yield from rest()
    yield from faults(folder)


def measure(name, call, watched, calls, folder):
    """How much of everything there is more of after each third of the calls."""
    watched, before, start = tuple(watched), refused.count, time.process_time()
    counts = np.zeros((1 + WINDOWS, len(KINDS) - 1 + len(SINGLES) + len(watched)), np.int64)
    for k in range(1 + WINDOWS):
        for _ in range(calls // WINDOWS if k else max(4, calls // 10)):
            call()
        counts[k] = counted(folder, watched)
    columns = np.diff(counts, axis=0).T.tolist()
    more = dict(zip(KINDS, [*columns[: len(KINDS) - 1], columns[len(KINDS) - 1 :]], strict=True))
    seconds = round(time.process_time() - start, 2)
    errors = refused.count - before
    return {"name": name, "calls": calls, **more, "errors": errors, "seconds": seconds}


if __name__ == "__main__":
    calls, folder, names = int(sys.argv[1]), Path(sys.argv[2]).resolve(), sys.argv[3:]
    engine.set_serial_flops(0)
    rnnfast.set_num_threads(2)
    SINGLES[:] = [thing for thing in SINGLES if not numpy_loses(thing)]
    gc.collect()
    gc.freeze()  # what is there already is not looked at in every collection
    for name, call, watched in cases(folder):
        if not names or any(part in name for part in names):
            fewer = min(calls, 100) if name.startswith("leak") else calls
            print(json.dumps(measure(name, call, watched, fewer, folder)), flush=True)
