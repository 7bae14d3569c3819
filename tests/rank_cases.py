"""Trainings that several ranks do as one process does; `mpiexec -n K python rank_cases.py OUT`
does them all, and writes what comes of them to OUT.npz."""

import copy
import pickle
import sys

import numpy as np
from mpi4py import MPI

import rnnfast
from rnnfast.training import ranks

V, N, T = 30, 7, 6  # the batch is no multiple of 2, 3 and 4
MANY = 400  # ids, of which a block has few
TEXT = N * (8 * T + 4) - 3 + 1  # nine blocks, the last one shorter; the last lane ends before
FULL = N * (8 * T + 4) + 1  # no lane is longer than others
FREQUENT = 1  # the id that there is most of
SHORT = N * 7 - 6 + 1  # the last lane has one token, and all the rest of it is ignored


def text(length, vocabulary=V, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.zipf(1.3, length) % vocabulary).astype(np.int64)


class Scale:
    """A layer of one's own, which does not descend from `rnnfast.Layer`."""

    def __init__(self, a):
        self.params, self.grads = [a], [np.zeros_like(a)]

    def forward(self, xs):
        self.xs = xs
        return xs * self.params[0]

    def backward(self, dout):
        self.grads[0][...] = (dout * self.xs).sum((0, 1))
        return dout * self.params[0]


class Two:
    """Two layers in one, whose lists are made from those of the layers."""

    def __init__(self, first, second):
        self.layers = first, second
        self.params = [*first.params, *second.params]
        self.grads = [*first.grads, *second.grads]

    def forward(self, xs):
        return self.layers[1].forward(self.layers[0].forward(xs))

    def backward(self, dout):
        return self.layers[0].backward(self.layers[1].backward(dout))


class Leaky:
    """A recurrent layer of one's own: h = 0.5 h + x, with a state (N, H)."""

    stateful = True

    def __init__(self):
        self.params, self.grads = [], []
        self.h = None

    def forward(self, xs):
        h, hs = np.zeros_like(xs[:, 0]) if self.h is None else self.h, np.empty_like(xs)
        for t in range(xs.shape[1]):
            hs[:, t] = h = 0.5 * h + xs[:, t]
        self.h = h
        return hs

    def backward(self, dhs):
        dxs, dh = np.empty_like(dhs), 0
        for t in reversed(range(dhs.shape[1])):
            dxs[:, t] = dh = 0.5 * dh + dhs[:, t]
        return dxs

    def reset_state(self):
        self.h = None

    def get_state(self):
        return (self.h,)

    def set_state(self, h):
        self.h = h


class Turned(Leaky):
    """The same with a state (H, N)."""

    def state_shape(self, rows):
        return 8, rows

    def get_state(self):
        return (None if self.h is None else self.h.T,)

    def set_state(self, h):
        self.h = None if h is None else h.T


class OwnLoss:
    """A mean over the targets that are not -1, which is NaN where there are none."""

    def __init__(self):
        self.params, self.grads = [], []

    def forward(self, xs, ts):
        p = np.exp(xs - xs.max(axis=2, keepdims=True))
        p /= p.sum(axis=2, keepdims=True)
        self.counted, rows = ts != -1, np.indices(ts.shape)
        self.dxs = p.copy()
        self.dxs[(*rows, ts)] -= 1
        with np.errstate(all="ignore"):
            self.dxs *= self.counted[:, :, None] / self.counted.sum()
            return -np.log(p[(*rows, ts)][self.counted]).sum() / self.counted.sum()

    def backward(self, dout=1):
        return dout * self.dxs


class Plain:
    """An optimizer of one's own, of what a trainer needs and no more."""

    __slots__ = ("lr", "steps")
    slots = state = ()

    def __init__(self, lr):
        self.lr, self.steps = lr, 0

    def update(self, params, grads):
        for W, dW in zip(params, grads, strict=True):
            W -= self.lr * dW
        self.steps += 1


def own_network(dtype, *between, loss=None):
    """Embedding, layers between, and what ends a language model."""
    rng = np.random.default_rng(3)

    def weights(*shape):
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(dtype)

    inner = (rnnfast.TimeAffine(weights(*shape), weights(shape[1])) for shape in ((8, 5), (5, 8)))
    layers = {
        "embedding": rnnfast.TimeEmbedding(weights(V, 8)),
        "scale": Scale(weights(8)),
        **dict(between),
        "two": Two(*inner),
        "affine": rnnfast.TimeAffine(weights(8, V), weights(V)),
    }
    return rnnfast.Network(layers, loss or rnnfast.TimeSoftmaxWithLoss())


def own(dtype):
    return own_network(dtype, ("leaky", Leaky()))


def turned(dtype):
    return own_network(dtype, ("turned", Turned()))


def own_loss(dtype):
    return own_network(dtype, loss=OwnLoss())


def other_label(dtype):
    return own_network(dtype, loss=rnnfast.TimeSoftmaxWithLoss(ignore_label=FREQUENT))


def stacked(dtype):
    options = {"num_layers": 2, "stateful": True, "dropout": 0.3, "dtype": dtype, "rng": 4}
    return own_network(dtype, ("stack", rnnfast.TimeStack("gru", 8, 8, **options)))


def model_of(dtype, vocabulary=V, **options):
    return rnnfast.LanguageModel(
        vocabulary, embedding=8, rng=2, dtype=dtype, **({"hidden": 10} | options)
    )


def make(
    model=model_of, optimizer=rnnfast.SGD, lr=0.5, length=TEXT, vocabulary=V, valid=100, **options
):
    """What makes a trainer of a communicator and a dtype; options are those of a Trainer."""

    def trainer(comm, dtype):
        return rnnfast.Trainer(
            model(dtype),
            optimizer(lr),
            text(length, vocabulary),
            text(valid, vocabulary, seed=1),
            comm=comm,
            **({"batch_size": N, "time_size": T, "max_grad": 0.5} | options),
        )

    return trainer


def lm(**options):
    return lambda dtype: model_of(dtype, **options)


def lazy_adam(lr):
    return rnnfast.Adam(lr, lazy=True)


def lazy_momentum(lr):
    return rnnfast.Momentum(lr, lazy=True)


def copied(copy_of):
    """What makes the copy of a trainer after an epoch; the trainer itself goes on."""

    def trainer(comm, dtype):
        first = make(lm(dropout=0.2), rnnfast.Adam, 0.01)(comm, dtype)
        first.fit(1, verbose=False)
        second = copy_of(first)
        first.fit(2, verbose=False)
        return second

    return trainer


REGULAR = {"dropout": 0.3, "weight_drop": 0.2, "zoneout": 0.1}
LARGE = {"vocabulary": MANY, "model": lm(vocabulary=MANY)}
TRAINERS = {  # and how many epochs make more than 50 steps
    "sgd": (make(), 6),
    "adam, two layers": (make(lm(layers=2), rnnfast.Adam, 0.01), 6),
    "no clipping": (make(lr=0.1, max_grad=None), 6),
    "ignored": (make(length=SHORT, time_size=3), 18),
    "tied": (make(lm(hidden=8, tie_weights=True, layers=2), rnnfast.Adam, 0.01), 6),
    "masks": (make(lm(layers=2, **REGULAR)), 6),
    "locked masks": (make(lm(cell="gru", layers=2, locked=True, **REGULAR)), 6),
    "rnn": (make(lm(cell="rnn"), rnnfast.Momentum, 0.05), 6),
    "accumulate": (make(accumulate=2), 11),
    "window": (make(lm(dropout=0.2, layers=2), window=3 * T), 6),
    "both": (make(window=2 * T, accumulate=4), 18),
    "average": (make(average=0.9, restore_best=True, lr=3), 6),
    "max_value": (make(max_value=0.01), 6),
    "rows, sgd": (make(**LARGE), 6),
    "rows, lazy adam": (make(optimizer=lazy_adam, lr=0.01, **LARGE), 6),
    "rows, adam": (make(optimizer=rnnfast.Adam, lr=0.01, **LARGE), 6),
    "rows, accumulate": (make(accumulate=2, optimizer=lazy_adam, lr=0.01, **LARGE), 11),
    # most rows of the table are those of one rank or another, and some are of none
    "few rows, adam": (make(optimizer=lazy_adam, lr=0.01), 6),
    "few rows, momentum": (make(optimizer=lazy_momentum, lr=0.05), 6),
    "few rows, accumulate": (make(accumulate=2, optimizer=lazy_adam, lr=0.01), 11),
    "few rows, momentum, both": (
        make(accumulate=2, window=2 * T, optimizer=lazy_momentum, lr=0.05),
        11,
    ),
    "own": (make(own), 6),
    "own, turned": (make(turned), 6),
    "own loss": (make(own_loss, length=SHORT, time_size=3), 18),
    "own optimizer": (make(optimizer=Plain), 6),
    "other label": (make(other_label, length=FULL, valid=N * 14 + 1), 6),
    "other label, accumulate": (
        make(other_label, length=FULL, valid=N * 14 + 1, accumulate=3),
        18,
    ),
    "copy": (copied(copy.deepcopy), 7),
    "pickle": (copied(lambda trainer: pickle.loads(pickle.dumps(trainer))), 7),
    "stack": (make(stacked), 6),
}


IN_FLOAT32 = ["adam, two layers", "ignored", "tied", "masks", "rows, adam", "own"]
CASES = [*(("float64", name) for name in TRAINERS), *(("float32", name) for name in IN_FLOAT32)]
# of four ranks, which are more than cores and so wait for each other
OF_FOUR = ["ignored", "tied", "masks", "window", "rows, accumulate", "own", "stack", "own loss"]


def cases_of(count):
    """The cases of so many ranks: (dtype, name)."""
    return [case for case in CASES if count < 4 or case[1] in OF_FOUR]


class Losses(rnnfast.Callback):
    def __init__(self):
        self.losses = []

    def on_step(self, trainer, tokens, loss):
        self.losses.append((tokens, loss))


def as_arrays(trainer):
    """What a training has come to: arrays by name."""
    arrays, position = trainer.state()
    lines = trainer.history
    found = arrays | {f"model/{k}": W for k, W in trainer.model.named_params().items()}
    found["history"] = np.array([(r.train_loss, r.valid_loss or 0, r.lr) for r in lines])
    found["places"] = np.array(repr([(r.epoch, r.step) for r in lines]))
    found["random"] = np.array(repr(position["random_state"]))
    return {key: np.array(array) for key, array in found.items()}


def results(name, dtype, comm=None):
    """What a training comes to, with its curve: arrays by name."""
    make_trainer, epochs = TRAINERS[name]
    trainer, seen = make_trainer(comm, dtype), Losses()
    trainer.fit(epochs, verbose=False, callbacks=[seen])
    found = as_arrays(trainer)
    if comm is not None:
        weights = b"".join(W.tobytes() for W in trainer.model.params)
        own = weights, repr(seen.losses), found["history"].tobytes()
        assert len(set(comm.allgather(own))) == 1, name
    return found | {"losses": np.array(seen.losses)}


def main(path):
    comm = MPI.COMM_WORLD
    found = {}
    if comm.size == 2:
        ranks.PART = 1000  # so that there is more than one
    for dtype, name in cases_of(comm.size):
        found |= {f"{dtype}|{name}|{k}": v for k, v in results(name, dtype, comm).items()}
    if comm.rank == 0:
        np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
