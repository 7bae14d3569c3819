"""One training step of a language model, here and in PyTorch: forward, backward, SGD.

    python benchmarks/compare_training.py --threads 1 2 --json training.json

Each contestant runs in a process of its own and they take turns. Losses of ten steps are compared
before any clock starts. With --numpy, the NumPy twin takes part too.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile

import numpy as np
from duel import Contestant, race, serve

CONFIGURATIONS = [  # cell, N, T, V, D, H
    ("rnn", 10, 5, 418, 100, 100),
    ("lstm", 20, 35, 10000, 100, 100),
    ("lstm", 50, 50, 65, 64, 128),
    ("lstm", 64, 50, 65, 64, 512),
    ("lstm", 20, 35, 10000, 650, 650),
]
LR = 0.1


def batches(N, T, V):
    """Ids as they are in a text: a few tokens are most of it (Zipf)."""
    rng = np.random.default_rng(0)
    probabilities = 1 / np.arange(1, V + 1)
    ids = rng.choice(V, (10, N, T + 1), p=probabilities / probabilities.sum())
    return [(block[:, :-1].copy(), block[:, 1:].copy()) for block in ids]


class Ours:
    def __init__(self, ops, cell, N, T, V, D, H, threads):
        import rnnfast

        rnnfast.set_num_threads(threads)
        kind = {"rnn": rnnfast.SimpleRnnlm, "lstm": rnnfast.Rnnlm}[cell]
        options = {} if ops == "rnnfast" else {"ops": rnnfast.reference.ops}
        self.model = kind(V, D, H, rng=np.random.default_rng(0), **options)
        self.optimizer = rnnfast.SGD(LR)
        self.batches, self.position = batches(N, T, V), 0

    def step(self):
        xs, ts = self.batches[self.position % len(self.batches)]
        self.position += 1
        loss = self.model.forward(xs, ts)
        self.model.backward()
        self.optimizer.update(self.model.params, self.model.grads)
        return loss

    def results(self):
        return [np.array([self.step() for _ in range(10)])]


class Torch:
    def __init__(self, _, cell, N, T, V, D, H, threads):
        import torch

        import rnnfast

        torch.set_num_threads(threads)
        self.torch = torch
        kind = {"rnn": rnnfast.SimpleRnnlm, "lstm": rnnfast.Rnnlm}[cell]
        embed_W, Wx, Wh, _, W, _ = kind(V, D, H, rng=np.random.default_rng(0)).params
        order = {"rnn": [0], "lstm": [2, 0, 1, 3]}[cell]  # i f g o from f g i o

        def ordered(W):
            parts = np.split(W, len(order), 1)
            return torch.tensor(np.concatenate([parts[k] for k in order], 1).T)

        self.embedding = torch.nn.Embedding(V, D)
        self.cell = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM}[cell](D, H, batch_first=True)
        self.affine = torch.nn.Linear(H, V)
        with torch.no_grad():
            self.embedding.weight[...] = torch.tensor(embed_W)
            self.cell.weight_ih_l0[...] = ordered(Wx)
            self.cell.weight_hh_l0[...] = ordered(Wh)
            self.cell.bias_ih_l0[...] = 0
            self.cell.bias_hh_l0[...] = 0
            self.affine.weight[...] = torch.tensor(W.T)
            self.affine.bias[...] = 0
        self.cell.bias_hh_l0.requires_grad = False  # one bias, as here
        layers = self.embedding, self.cell, self.affine
        parameters = [p for layer in layers for p in layer.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, LR)
        self.batches = [tuple(map(torch.tensor, pair)) for pair in batches(N, T, V)]
        self.position, self.state = 0, None

    def step(self):
        xs, ts = self.batches[self.position % len(self.batches)]
        self.position += 1
        self.optimizer.zero_grad(set_to_none=True)
        hs, state = self.cell(self.embedding(xs), self.state)
        states = state if isinstance(state, tuple) else (state,)
        states = tuple(s.detach() for s in states)
        self.state = states if isinstance(state, tuple) else states[0]
        logits = self.affine(hs)
        loss = self.torch.nn.functional.cross_entropy(logits.flatten(0, 1), ts.flatten())
        loss.backward()
        self.optimizer.step()
        return loss

    def results(self):
        return [np.array([float(self.step().detach()) for _ in range(10)])]


def compare(names, configuration, threads, rounds, seconds):
    contestants = [Contestant(__file__, name, *configuration, threads) for name in names]
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        for k, contestant in enumerate(contestants):
            path = os.path.join(folder, f"{k}.npz")
            contestant.ask("results", path)
            with np.load(path) as file:
                losses.append(file["arr_0"])
    for other in losses[1:]:
        assert np.abs(other - losses[0]).max() < 1e-4, f"losses differ: {losses}"
    times, ratios = race(contestants, "step", rounds, seconds)
    for contestant in contestants:
        contestant.close()
    return {
        "configuration": configuration,
        "threads": threads,
        "ms": dict(zip(names, (1e3 * t for t in times), strict=True)),
        "ratio": dict(zip(names, ratios, strict=True)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    parser.add_argument("--only", nargs="+", type=int, metavar="K", help="rows, from 0")
    parser.add_argument("--numpy", action="store_true", help="the NumPy twin takes part")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.worker:
        name, *configuration = json.loads(arguments.worker)
        contestant = (Torch if name == "torch" else Ours)(name, *configuration)
        return serve(contestant)

    from importlib.metadata import version

    names = ["rnnfast", "torch", *(["numpy"] if arguments.numpy else [])]
    versions = f"NumPy {np.__version__}, PyTorch {version('torch')}"
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"{versions}; ms of a step, ratio = peer / rnnfast")
    print(f"{'cell N,T,V,D,H':28} thr {'rnnfast':>9}" + "".join(
        f" {name:>9} {'ratio':>6}" for name in names[1:]))  # fmt: skip
    rows = []
    for threads in arguments.threads:
        group = []
        for k, configuration in enumerate(CONFIGURATIONS):
            if arguments.only and k not in arguments.only:
                continue
            row = compare(names, configuration, threads, arguments.rounds, arguments.seconds)
            group.append(row)
            cell, *sizes = configuration
            print(f"{cell:4} {','.join(map(str, sizes)):23} {threads:3} "
                  f"{row['ms']['rnnfast']:9.3f}" + "".join(
                      f" {row['ms'][name]:9.3f} {row['ratio'][name]:6.2f}" for name in names[1:]),
                  flush=True)  # fmt: skip
        means = {
            name: statistics.geometric_mean(row["ratio"][name] for row in group)
            for name in names[1:]
        }
        print("geometric means: " + ", ".join(f"{name} {m:.2f}" for name, m in means.items()))
        rows += group
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"numpy": np.__version__, "torch": version("torch"), "rows": rows}, file)


if __name__ == "__main__":
    main()
