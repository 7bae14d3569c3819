"""One recurrent layer, forward and backward, here and in PyTorch.

    python benchmarks/compare_layers.py --cell lstm --threads 1 2 --json layers.json

Each contestant runs in a process of its own; the two take turns, and the ratio is taken pair by
pair, of which the median counts. Results are compared before any clock starts.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile

import numpy as np
from duel import Contestant, race, serve

SHAPES = [
    (1, 25, 65, 100),
    (10, 5, 100, 100),
    (20, 35, 100, 100),
    (50, 50, 128, 128),
    (20, 35, 650, 650),
    (64, 100, 256, 512),
    (128, 50, 1024, 1024),
]
GATES = {"rnn": 1, "lstm": 4}


def problem(cell, dtype, N, T, D, H):
    rng = np.random.default_rng(0)
    G = GATES[cell]

    def normal(*shape, scale=1.0):
        return (rng.standard_normal(shape) / scale).astype(dtype)

    return (
        normal(N, T, D),
        [normal(D, G * H, scale=D**0.5), normal(H, G * H, scale=H**0.5), normal(G * H)],
        normal(N, T, H),
    )


class Ours:
    def __init__(self, cell, dtype, shape, threads):
        import rnnfast

        rnnfast.set_num_threads(threads)
        self.xs, weights, self.dhs = problem(cell, dtype, *shape)
        self.layer = {"rnn": rnnfast.TimeRNN, "lstm": rnnfast.TimeLSTM}[cell](*weights)

    def forward(self):
        return self.layer.forward(self.xs)

    def both(self):
        self.layer.forward(self.xs)
        return self.layer.backward(self.dhs)

    def results(self):
        return [self.forward(), self.layer.backward(self.dhs), *self.layer.grads]


class Torch:
    def __init__(self, cell, dtype, shape, threads):
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        _, _, D, H = shape
        xs, (Wx, Wh, b), dhs = problem(cell, dtype, *shape)
        kind = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM}[cell]
        self.module = kind(D, H, batch_first=True, dtype=getattr(torch, dtype))
        order = self.gate_order = {"rnn": [0], "lstm": [2, 0, 1, 3]}[cell]  # i f g o from f g i o

        def ordered(W):
            return torch.tensor(np.concatenate([np.split(W, len(order), -1)[k] for k in order], -1))

        with torch.no_grad():
            self.module.weight_ih_l0[...] = ordered(Wx).T
            self.module.weight_hh_l0[...] = ordered(Wh).T
            self.module.bias_ih_l0[...] = ordered(b)
            self.module.bias_hh_l0[...] = 0
        self.xs, self.dhs = torch.tensor(xs, requires_grad=True), torch.tensor(dhs)

    def forward(self):
        with self.torch.no_grad():
            return self.module(self.xs)[0]

    def both(self):
        self.module.zero_grad(set_to_none=True)
        self.xs.grad = None
        self.module(self.xs)[0].backward(self.dhs)

    def results(self):
        self.both()

        def ours(dW):
            parts = np.split(dW.numpy().T, len(self.gate_order), -1)
            return np.concatenate([parts[self.gate_order.index(k)] for k in range(len(parts))], -1)

        m = self.module
        grads = m.weight_ih_l0.grad, m.weight_hh_l0.grad, m.bias_ih_l0.grad
        return [self.forward().numpy(), self.xs.grad.numpy(), *map(ours, grads)]


CONTESTANTS = {"rnnfast": Ours, "torch": Torch}


def worker(name, cell, dtype, shape, threads):
    serve(CONTESTANTS[name](cell, dtype, shape, threads))


def check(pair, dtype, folder):
    results = []
    for k, contestant in enumerate(pair):
        path = os.path.join(folder, f"{k}.npz")
        contestant.ask("results", path)
        with np.load(path) as file:
            results.append([file[name] for name in file.files])
    tolerance = 1e-4 if dtype == "float32" else 1e-10
    for ours, theirs in zip(*results, strict=True):
        difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert difference < tolerance, f"results differ by {difference}"


def compare(cell, dtype, shape, threads, rounds, seconds, torch_environment):
    pair = [
        Contestant(__file__, "rnnfast", cell, dtype, shape, threads),
        Contestant(__file__, "torch", cell, dtype, shape, threads, environment=torch_environment),
    ]
    with tempfile.TemporaryDirectory() as folder:
        check(pair, dtype, folder)
    row = {"cell": cell, "dtype": dtype, "shape": shape, "threads": threads}
    for what in ("forward", "both"):
        (ours, theirs), (_, ratio) = race(pair, what, rounds, seconds)
        N, T, D, H = shape
        flops = 2 * N * T * (D + H) * GATES[cell] * H * (3 if what == "both" else 1)
        row[what] = {
            "rnnfast_ms": 1e3 * ours,
            "torch_ms": 1e3 * theirs,
            "ratio": ratio,
            "gflops": flops / ours / 1e9,
        }
    for contestant in pair:
        contestant.close()
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--cell", nargs="+", default=["lstm", "rnn"], choices=list(GATES))
    parser.add_argument("--dtype", nargs="+", default=["float32"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--shape", nargs=4, type=int, action="append", metavar=("N", "T", "D", "H"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each measurement")
    parser.add_argument("--avx2", action="store_true", help="limit both to AVX2")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(*json.loads(arguments.worker))
    torch_environment = {}
    if arguments.avx2:
        os.environ["RNNFAST_CPU"] = "avx2"
        torch_environment = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}

    from importlib.metadata import version

    rows = []
    versions = f"NumPy {np.__version__}, PyTorch {version('torch')}"
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"{versions}; ms, ratio = PyTorch / rnnfast")
    print(f"{'cell':5} {'dtype':8} thr  {'N,T,D,H':18} {'forward':>9} {'ratio':>6}   "
          f"{'fwd+bwd':>9} {'ratio':>6} {'GF/s':>6}")  # fmt: skip
    for cell in arguments.cell:
        for dtype in arguments.dtype:
            for threads in arguments.threads:
                group = []
                for shape in arguments.shape or SHAPES:
                    row = compare(cell, dtype, tuple(shape), threads, arguments.rounds,
                                  arguments.seconds, torch_environment)  # fmt: skip
                    group.append(row)
                    f, b = row["forward"], row["both"]
                    print(f"{cell:5} {dtype:8} {threads:3}  {','.join(map(str, shape)):18} "
                          f"{f['rnnfast_ms']:9.3f} {f['ratio']:6.2f}   {b['rnnfast_ms']:9.3f} "
                          f"{b['ratio']:6.2f} {b['gflops']:6.1f}", flush=True)  # fmt: skip
                means = [
                    statistics.geometric_mean(row[what]["ratio"] for row in group)
                    for what in ("forward", "both")
                ]
                print(f"{'':13} {threads:3}  {'geometric mean':18} {'':9} {means[0]:6.2f}   "
                      f"{'':9} {means[1]:6.2f}", flush=True)  # fmt: skip
                rows += group
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"numpy": np.__version__, "torch": version("torch"), "rows": rows}, file)


if __name__ == "__main__":
    main()
