"""`rnnfast bench`, on tiny shapes; no assertion on a time."""

import json
import os
import re
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import rnnfast
from rnnfast.bench import duel, numpy_peer, ours, problems, textbook_peer, worker
from rnnfast.bench.duel import Arena, Entry, Pace, Refused, agree
from rnnfast.bench.report import as_json, cells, text_head, write_plot
from rnnfast.bench.run import run
from rnnfast.bench.tables import TABLES, bf16, cases, layers, machine, ranks, rows
from rnnfast.bench.tables.cases import layer
from rnnfast.bench.tables.rows import Bench, Peer, Row, Table, measure
from rnnfast.cli import main
from rnnfast.errors import InputError
from rnnfast.training.ranks import OneRank

SHAPES, installed_version = cases.SHAPES, duel.installed_version  # the real ones
TINY = Pace(turn=0.001, seconds=0, rounds=2)
SHAPE = (2, 3, 4, 5)
GENERATION = {"cell": "lstm", "V": 11, "D": 4, "H": 5, "length": 300}
STEPS = [
    *(("Affine", {"N": 3, "D": 4, "M": 7, "tied": tied}) for tied in (False, True)),
    *(("Step", {"cell": cell, "N": 3, "D": 4, "H": 5}) for cell in ("lstm", "rnn")),
]
LAYERS = [  # cell, options
    (cell, options)
    for cell in ("lstm", "gru_reset_after", "rnn")
    for options in ({"ragged": True}, {"directions": 2}, {"layers": 2}, {"way": "inference"})
] + [("rnn_relu", {}), ("gru_reset_after", {})]
BETWEEN = [
    ("Dropout", {"shape": (10, 20, 30)}),  # so many that half of them is half
    ("Attention", {"N": 3, "S": 4, "T": 2, "H": 5}),
]
ANSWERS = {"N": 3, "S": 4, "T": 2, "V": 7, "D": 3, "H": 5}
PROGRAMS = [  # name, options
    ("simple", {"steps": 3, "own_loop": True}),
    ("simple", {"steps": 3, "own_loop": False}),
    ("rnnlm", {"steps": 2, "evaluated": 1, "H": 4}),
    ("better", {"steps": 2, "evaluated": 1, "H": 4}),
    ("addition", {"steps": 3, "evaluated": 5, "peeky": False, "N": 4}),
    ("addition", {"steps": 3, "evaluated": 5, "peeky": True, "N": 4}),
    ("dates", {"steps": 3, "evaluated": 2, "N": 4, "H": 8}),
]
needs_mpi = pytest.mark.skipif(duel.launcher() is None, reason="needs mpi4py and an mpiexec")
MODELS = [{"cell": cell, "N": 2, "T": 3, "V": 11, "D": 4, "H": 5} for cell in ("rnn", "lstm")]


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """Tiny shapes, an empty working folder, and no peer but NumPy, which takes long to import."""
    monkeypatch.setattr(cases, "SHAPES", [SHAPE, (1, 2, 3, 4)])
    monkeypatch.setattr(rows, "Pace", lambda **_: TINY)
    monkeypatch.setattr(cases, "EMBEDDING", {"V": 20, "D": 3, "tokens": 7})
    only(monkeypatch, "rnnfast", "numpy")
    monkeypatch.chdir(tmp_path)
    threads = rnnfast.get_num_threads()
    yield tmp_path
    rnnfast.set_num_threads(threads)


def only(monkeypatch, *names):
    monkeypatch.setattr(duel, "installed_version", lambda name: "1.0" if name in names else None)


def entry(name):
    return layer(name, "lstm", SHAPE)


def test_command_prints_tables_and_writes_json_and_markdown(tiny, capsys):
    command = ["bench", "--quick", "--table", "lstm", "embedding", "--threads", "1"]
    assert main([*command, "--json", "b.json", "--markdown", "b.md"]) == 0
    out = capsys.readouterr().out
    for name, value in rnnfast.build_info().items():
        assert re.search(f"^{name} +{re.escape(str(value))}$", out, re.MULTILINE)
    for part in ("load average", "date", "cpu ", TABLES["lstm"].title, "V20 D3, 7 tokens"):
        assert part in out

    data = json.loads((tiny / "b.json").read_text())
    assert data["command"].startswith("rnnfast " + " ".join(command))
    lstm, embedding = data["tables"]
    assert [row["what"] for row in lstm["rows"]] == ["2,3,4,5", "1,2,3,4"]
    row = embedding["rows"][0]
    assert (row["peer"], row["target"], row["note"]) == ("NumPy", 3.0, "")
    assert row["met"] == (row["ratio"] >= row["target"])
    assert min(row["ours"], row["theirs"], row["ratio"], lstm["rows"][0]["rate"]) > 0

    page = (tiny / "b.md").read_text()
    assert page.startswith("# Benchmarks\n")
    assert data["command"] in page
    for table in page.split("\n## ")[1:]:
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert {line.count("|") for line in rows} == {10}


def test_no_folder_gets_into_a_report(tiny, monkeypatch):
    pytest.importorskip("matplotlib", reason="a plot is asked for, and matplotlib not installed")
    for name in ("page", "elsewhere"):
        (tiny / name).mkdir()
    monkeypatch.setattr("rnnfast.bench.report.write_plot", lambda path, _: Path(path).touch())
    for plot, link in (("page/b.png", "![ratio by size](b.png)"), (tiny / "elsewhere/b.png", "")):
        files = {"json": tiny / "elsewhere/b.json", "plot": plot, "markdown": "page/b.md"}
        run(["embedding"], threads=[1], **files)
        page, data = (tiny / "page/b.md").read_text(), (tiny / "elsewhere/b.json").read_text()
        assert "--json b.json --plot b.png --markdown b.md`" in page
        assert [line for line in page.splitlines() if "b.png)" in line] == [link] * bool(link)
        for word in (str(tiny), "page", "elsewhere"):
            assert word not in page + data


def test_absent_peers_are_named(capsys):
    run(["lstm"], threads=[1])
    out = capsys.readouterr().out
    assert re.search(r"^PyTorch +absent$", out, re.MULTILINE)
    assert len(re.findall(r" PyTorch .* absent$", out, re.MULTILINE)) == len(cases.SHAPES)


def test_tables_of_every_kind_run(monkeypatch):
    """Whatever peers there are: NumPy plays PyTorch where that saves its import."""
    monkeypatch.setitem(duel.CONTESTANTS, "torch", duel.CONTESTANTS["numpy"])
    only(monkeypatch, "rnnfast", "numpy", "textbook", "torch")
    monkeypatch.setattr(cases, "LANGUAGE_MODELS", [("lstm", 2, 3, 11, 4, 5)])
    monkeypatch.setattr(cases, "MIDDLE_SHAPES", [SHAPE])
    monkeypatch.setattr(cases, "SEQUENCES", [("gru_reset_after", SHAPE)])
    monkeypatch.setattr(cases, "REGULARISED", [("lstm", SHAPE)])
    monkeypatch.setattr(cases, "MANY_ROWS", 1)
    monkeypatch.setattr(cases, "MEMORY_VOCABULARIES", (5, 7))
    monkeypatch.setattr(cases, "TABLE_ROWS", (20, 7))
    monkeypatch.setattr(cases, "STEP_WITH_TABLE", {"N": 2, "T": 3, "V": 5, "D": 4, "H": 3})
    monkeypatch.setattr(cases, "FAINT_LAYERS", [("lstm", SHAPE, "weights")])
    monkeypatch.setattr(cases, "UPDATE_SHAPE", (4, 5))
    monkeypatch.setattr(cases, "LOSS_SIZES", {"M": 3, "V": 5})
    monkeypatch.setattr(cases, "DEEP_MODELS", [(("rnn", 2, 3, 11, 4, 5), 2)])
    monkeypatch.setattr(cases, "PROGRAMS", [("x", "Program", *PROGRAMS[0], None)])
    for name in (
        *("lstm-forward", "training", "gemm", "memory", "busy", "gru", "gru-textbook", "relu"),
        *("rnn-inference", "lengths", "bidirectional", "stacks", "regularisation", "few-rows"),
        *("deep", "textbook", "wide-table", "denormals"),
    ):
        rows = [row for _, row in measure([name], quick=True)]
        assert rows, name
        assert {row.note for row in rows} == {""}, rows


@pytest.mark.parametrize(("quick", "times"), [(True, 1), (False, 3)])
def test_tables_share_processes_in_a_hurry_alone(monkeypatch, quick, times):
    closed = []
    monkeypatch.setattr(Arena, "close", lambda _: closed.append(1))
    for name in ("lstm", "rnn"):
        monkeypatch.setitem(TABLES, name, Table(name, "", lambda bench: bench.few((), 1)))
    assert list(measure(["lstm", "rnn"], quick=quick)) == []
    assert len(closed) == times


def test_inference_keeps_nothing_of_all_steps():
    rows = [row for _, row in measure(["inference-memory"], quick=True)]
    assert [(row.note, row.met) for row in rows] == [("", True)] * 3, rows


class Plan(Bench):
    """Every peer is there, everything takes a millisecond, nothing is run: all rows at once."""

    def rows(self, what, ours, peers, *, work=None, beside=None, tolerance=None):
        self.entries += [ours, *(peer.entry for peer in peers)]
        return [Row(what, ours.threads, p.name, 1.0, 1.0, 1.0, p.target) for p in peers]


def plan(monkeypatch, name):
    """Rows of a table in full for 1 and 2 threads, with its means; and their entries."""
    monkeypatch.setattr(cases, "SHAPES", SHAPES)
    monkeypatch.setattr(machine, "available_cpus", lambda: 2)
    monkeypatch.setattr(duel, "installed_version", lambda name: "1")
    monkeypatch.setattr(layers.engine, "CPU_LEVEL", "avx512")
    bench = Plan(None, [1, 2])
    bench.entries = []
    rows = list(TABLES[name].measure(bench))
    return rows + TABLES[name].mean_rows(rows), bench.entries


def test_avx2_limits_both_contestants(monkeypatch):
    _, entries = plan(monkeypatch, "avx2")
    assert {e.name: e.environment for e in entries} == {
        "rnnfast": {"RNNFAST_CPU": "avx2"},
        "torch": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    }


@pytest.mark.parametrize(
    ("name", "rows", "targets", "means"),
    [  # for each number of threads
        ("lstm", 7, {1.15: 5, 1.05: 2}, {"PyTorch": 2.0}),
        ("rnn", 7, {1.3: 7}, {"PyTorch": 3.0}),
        ("gru", 7, {1.3: 7}, {"PyTorch": 3.0}),
        ("lstm-forward", 7, {1.0: 7}, {"PyTorch": 1.3}),
        ("lstm-inference", 7, {1.0: 7}, {"PyTorch": 1.4}),
        ("gru-inference", 4, {1.0: 4}, {"PyTorch": 1.4}),
        ("rnn-inference", 4, {1.0: 4}, {"PyTorch": 1.4}),
        ("gru-textbook", 6, {1 / 1.25: 6}, {"rnnfast, reset_after": None}),
        ("relu", 12, {1 / 1.05: 6}, {"rnnfast, tanh": None, "PyTorch": None}),
        ("float64", 7, {1.0: 7}, {"PyTorch": 1.5}),
        ("avx2", 7, {}, {"PyTorch": 1.3}),
        ("training", 15, {}, {"PyTorch": 2.5, "textbook NumPy": 6.0, "NumPy": None}),
        ("seq2seq", 3, {3.0: 3}, {"textbook NumPy": None}),
        ("wide-table", 1, {1 / 1.15: 1}, {}),
        ("deep", 3, {1.0: 3}, {"PyTorch": None}),
        ("generation", 5, {20.0: 1, 1.5: 2}, {}),
        ("textbook", 9, {2.0: 4, 2.5: 2, 3.0: 2}, {"textbook NumPy": None}),
        ("denormals", 21, {1 / 1.1: 21}, {"rnnfast, ordinary numbers": None}),
        ("dropout", 6, {2.0: 3, 1.0: 3}, {"textbook NumPy": None, "PyTorch": None}),
        ("attention", 6, {5.0: 3, 1.0: 3}, {"textbook NumPy": None, "PyTorch": None}),
        ("embedding", 2, {3.0: 1}, {}),
        ("gemm", 5, {0.8: 3}, {}),
        ("linear", 7, {1 / 1.1: 7}, {}),
        ("odd", 24, {1.0: 24}, {"PyTorch": None}),
        ("busy", 3, {1.0: 3}, {"PyTorch": None}),
        ("pools", 6, {0.5: 6}, {}),
        (
            *("lengths", 12, {1 / 0.6: 6, 3.0: 6}),
            {"rnnfast, full length": None, "PyTorch": None},
        ),
        ("stacks", 16, {1 / 2: 8}, {"rnnfast, one layer": None, "PyTorch": None}),
        ("regularisation", 21, {1 / 1.15: 21}, {"rnnfast, plain": None}),
    ],
)
def test_tables_have_the_targets_wanted_for_1_and_2_threads(
    monkeypatch, name, rows, targets, means
):
    planned, _ = plan(monkeypatch, name)
    for n in (1, 2):
        mine = [row for row in planned if row.threads == n]
        single = [row for row in mine if row.what != "geometric mean"]
        assert len(single) == rows
        assert Counter(row.target for row in single if row.target) == targets
        assert {row.peer: row.target for row in mine if row not in single} == means


def test_a_ratio_takes_account_of_other_work(monkeypatch):
    monkeypatch.setattr(Arena, "check", lambda *_: None)
    monkeypatch.setattr(Arena, "race", lambda *_: ([2.0, 3.0, 5.0], [1.0, 1.5, 2.5]))
    peers = [Peer(entry("numpy"), 9.0, factor=4.0, same=False), Peer(entry("numpy"), label="it")]
    with Arena(TINY) as arena:
        rows = Bench(arena, [1]).rows("x", entry("rnnfast"), peers)
    # those that compute the same take their turns first
    assert [(r.peer, r.ours, r.theirs, r.ratio, r.target) for r in rows] == [
        ("NumPy", 2000.0, 5000.0, 10.0, 9.0),
        ("it", 2000.0, 3000.0, 1.5, None),
    ]


def test_both_directions_are_measured_beside_one_and_on_two_threads_beside_one(monkeypatch):
    rows, entries = plan(monkeypatch, "bidirectional")
    targets = Counter((r.threads, r.peer, r.target) for r in rows if r.what != "geometric mean")
    assert targets == {
        **{(n, "rnnfast, one direction", 1 / 2.05): 8 for n in (1, 2)},
        **{(n, "PyTorch", None): 8 for n in (1, 2)},
        (2, "rnnfast, 1 thread", 1.8): 6,
        (2, "rnnfast, 1 thread", None): 2,  # less than a millisecond in one direction
    }
    two, one, _, alone = entries[-4:]
    assert [(e.name, e.threads) for e in (two, one, alone)] == [("rnnfast", n) for n in (2, 2, 1)]
    assert [e.options.get("directions", 1) for e in (two, one, alone)] == [2, 1, 2]


def test_stacks_take_inputs_as_wide_as_their_outputs(monkeypatch):
    _, entries = plan(monkeypatch, "stacks")
    assert {(D == H) for _, _, D, H in (entry.options["shape"] for entry in entries)} == {True}


@pytest.mark.parametrize("multiplies", [True, False])
def test_products_in_bf16_are_beside_all_others(monkeypatch, multiplies):
    """Targets are those of processors that multiply bf16."""
    monkeypatch.setattr(bf16.engine, "BF16", multiplies)
    rows, entries = plan(monkeypatch, "bf16")
    targets = Counter(row.target for row in rows if row.threads == 1)
    if multiplies:
        # 3 + 1 + 3 shapes of 3 cells; 3 + 2 models
        assert targets[1.0] == 3 * 3 + 3
        assert [targets[x] for x in (1.35, 1.7, 1.6, 1.2, 0.8)] == [3, 9, 2, 2, 3]
    else:
        assert set(targets) == {None, 2.2}
    rounded = {entry.options.get("precision") for entry in entries if entry.name == "torch"}
    assert rounded == {None, "autocast", "weights", "bfloat16"}
    assert {e.options.get("precision") for e in entries if e.name == "rnnfast"} == {
        None,
        "bfloat16",
    }


@pytest.mark.parametrize("precision", ["autocast", "weights"])
def test_pytorch_in_bf16_makes_nearly_the_same_steps(precision):
    pytest.importorskip("torch")
    options = {**MODELS[1], "precision": "bfloat16"}
    with Arena(TINY) as arena:
        peer = Entry("torch", "Training", {**MODELS[1], "precision": precision})
        workers = arena.enter(Entry("rnnfast", "Training", options), peer)
        arena.check(workers, bf16.ROUNDED)
        with pytest.raises(Refused, match="differ"):
            arena.check(workers)


def test_few_rows_are_beside_the_faster_peer(monkeypatch):
    rows, entries = plan(monkeypatch, "few-rows")
    means = [row for row in rows if row.what == "geometric mean"]
    assert [(r.threads, r.peer, r.target) for r in means] == [
        (1, "the faster", 1.5),
        (2, "the faster, several threads", None),
    ]
    single = [row for row in rows if row not in means]
    assert {(row.threads, row.target) for row in single} == {(1, 0.95), (2, None)}
    assert Counter(row.threads for row in single) == {1: 8 * 4, 2: 3 * 2}
    assert {entry.name for entry in entries} == {"rnnfast", "textbook", "torch"}
    assert {"affine 650 to 10000, tied, N=16", "lstm 100,100, N=1"} <= {r.what for r in single}


def test_the_fastest_peer_has_the_row_and_none_where_one_is_absent(monkeypatch):
    ratios = {"PyTorch": 1.2, "textbook NumPy": 0.9}

    def rows(self, what, ours, peers, tolerance=None):
        return [Row(what, 1, p.name, 1.0, 2.0, ratios[p.name], p.target) for p in peers]

    monkeypatch.setattr(Bench, "rows", rows)
    peers = [Peer(Entry(name, "Step", {})) for name in ("torch", "textbook")]

    def found():
        fastest = Bench(None, [1]).fastest("x", entry("rnnfast"), peers, 0.95, mean="a mean")
        return [(row.peer, row.target, row.met, row.mean) for row in fastest]

    assert found() == [("textbook NumPy", 0.95, False, "a mean")]
    ratios["PyTorch"] = None
    assert found() == [("PyTorch", None, None, ""), ("textbook NumPy", None, None, "")]


def test_means_are_of_what_rows_say():
    table = Table("x", "x", None, means={"a mean": 1.5})
    rows = [Row("x", 1, peer, ratio=r, mean="a mean") for peer, r in (("a", 1.0), ("b", 4.0))]
    (mean,) = table.mean_rows(rows)
    assert (mean.peer, mean.ratio, mean.target, mean.met) == ("a mean", 2.0, 1.5, True)


def test_threads_have_time_to_settle_where_there_is_more_than_one():
    class Racer:
        def __init__(self, threads):
            self.threads, self.waits = threads, set()

        def ask(self, do, seconds, settling):
            self.waits.add(settling)
            return 1.0

    for counts, waits in (((1, 1), {0}), ((1, 2), {duel.SETTLING})):
        racers = [Racer(n) for n in counts]
        Arena(TINY).race(racers)
        assert [racer.waits for racer in racers] == [waits] * 2


def test_what_comes_before_a_call_is_not_timed(monkeypatch):
    clock = SimpleNamespace(now=0, sleep=lambda seconds: None)
    clock.perf_counter = lambda: clock.now

    def passes(seconds):
        clock.now += seconds

    monkeypatch.setattr(worker, "time", clock)
    task = SimpleNamespace(before=lambda: passes(100), run=lambda: passes(1))
    assert worker.turn(task, 250, 0) == 1
    assert clock.now == 4 * 101


def test_a_layer_after_a_product_of_another_library_is_that_layer():
    options = {"cell": "rnn", "dtype": "float32", "shape": SHAPE, "way": "both"}
    task = ours.LayerAfterProduct(1, library="numpy", **options)
    assert task.before().shape == (512, 512)
    for after, alone in zip(task.results(), ours.Layer(1, **options).results(), strict=True):
        np.testing.assert_array_equal(after, alone)


def test_two_threads_are_measured_wherever_one_takes_20_ms(monkeypatch):
    rows, _ = plan(monkeypatch, "threads")
    assert {(row.threads, row.target) for row in rows} == {(2, 1.8)}
    assert [row.what for row in rows] == [
        *(f"lstm {shape}" for shape in ("20,35,650,650", "64,100,256,512", "128,50,1024,1024")),
        *(f"lstm {shape}, forward"
          for shape in ("20,35,650,650", "64,100,256,512", "128,50,1024,1024")),
        *(f"rnn {shape}" for shape in ("64,100,256,512", "128,50,1024,1024")),
        *(f"training lstm {model}"
          for model in ("20,35,10000,100,100", "64,50,65,64,512", "20,35,10000,650,650")),
    ]  # fmt: skip


def test_two_ranks_are_wanted_to_be_faster_where_steps_are_long(monkeypatch):
    monkeypatch.setattr(duel, "launcher", lambda: "mpiexec")
    monkeypatch.setattr(ranks, "available_cpus", lambda: 2)
    monkeypatch.setattr(
        ranks, "_communication", lambda _, what, entry, target: Row(what, 1, "step", target=target)
    )
    monkeypatch.setattr(ranks, "_sum", lambda _, what, entry: Row(what, 1, ""))
    rows, entries = plan(monkeypatch, "ranks")
    large = {"lstm 64,50,65,64,512", "lstm 20,35,10000,650,650"}
    assert {(r.what, r.peer, r.target) for r in rows if r.target} == {
        *((what, "1 rank, 1 thread", 1.7) for what in large),
        *((what, "step", 1 / 0.15) for what in large),
    }
    assert len(rows) == 3 * len(cases.LANGUAGE_MODELS) + 2
    assert {(e.ranks, e.threads) for e in entries} == {(2, 1), (1, 1), (1, 2)}


@pytest.mark.parametrize(("mpiexec", "cpus"), [(None, 2), ("mpiexec", 1)])
def test_ranks_are_not_measured_without_mpi_or_on_one_cpu(monkeypatch, capsys, mpiexec, cpus):
    monkeypatch.setattr(duel, "launcher", lambda: mpiexec)
    monkeypatch.setattr(ranks, "available_cpus", lambda: cpus)
    run(["ranks"])
    assert "ranks: this machine cannot measure it" in capsys.readouterr().out


@pytest.fixture
def of_two_ranks(monkeypatch, tiny):
    """A function that makes an entry of a task in a module of that text, for two ranks."""
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(name, "1")  # Open MPI starts as root if it is asked to
    monkeypatch.setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")  # on one core
    monkeypatch.setattr(ranks, "available_cpus", lambda: 2)

    def make(text, task, **options):
        (tiny / "tasks.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tiny), prepend=os.pathsep)
        monkeypatch.setitem(duel.CONTESTANTS, "rnnfast", ("tasks", "rnnfast", "rnnfast"))
        return Entry("rnnfast", task, options, ranks=2)

    return make


@needs_mpi
def test_two_ranks_are_measured(monkeypatch, of_two_ranks):
    case = ("lstm", 3, 4, 11, 4, 5)  # of lanes that two ranks do not have as many of
    monkeypatch.setattr(cases, "SHARED_MODELS", [(case, 1.0)])
    two, other, part, small, gradients = (row for _, row in measure(["ranks"], quick=True))
    assert {row.note for row in (two, other, part, small, gradients)} == {""}
    assert (two.peer, other.peer) == ("1 rank, 1 thread", "1 rank, 2 threads")
    assert 0 < part.ours < part.theirs
    assert part.ratio > 1
    model = problems.language_model(*(case[k] for k in (0, 3, 4, 5)))
    size = sum(W.nbytes for W in model.params) / 1e6
    assert size < part.work < size + 0.001  # the sums beside it are of a few numbers
    assert gradients.work == pytest.approx(size)
    assert (small.work, small.ours > 0, gradients.rate > 0) == (0.008, True, True)


OTHER_LANES = """
from rnnfast.bench import ours

class SharedTraining(ours.SharedTraining):
    def __init__(self, threads, **sizes):
        super().__init__(threads, **sizes)
        if self.ranks.size > 1:
            self.mine = slice(0, 1)
"""


@needs_mpi
def test_ranks_that_compute_something_else_are_refused(of_two_ranks):
    ours = of_two_ranks(OTHER_LANES, "SharedTraining", **MODELS[1])
    with Arena(TINY) as arena:
        (row,) = Bench(arena, [1]).rows("x", ours, [Peer(replace(ours, ranks=1))])
    assert row.note == "results of rnnfast, 2 ranks and rnnfast differ"


FAULTS = """
import os
import time
from pathlib import Path

from rnnfast.training.ranks import world

class Task:
    def __init__(self, threads, *, fault=""):
        self.ranks = world()
        Path(f"rank{self.ranks.rank}").write_text(str(os.getpid()))
        if fault == "raise" and self.ranks.rank == 1:
            raise ValueError("one of mine")

    def run(self):
        pass

    def die(self):
        if self.ranks.rank == 1:
            os._exit(3)

    def hang(self):
        time.sleep(1000)
"""


def running(folder):
    """Which of the ranks that have written their number there have not ended."""

    def runs(process):
        try:
            os.kill(process, 0)
            return True
        except ProcessLookupError:
            return False

    return [path for path in folder.glob("rank?") if runs(int(path.read_text()))]


def wait_until_none_is_running(folder):
    assert len(list(folder.glob("rank?"))) == 2
    end = time.monotonic() + 30
    while running(folder):
        assert time.monotonic() < end, "ranks are left behind"
        time.sleep(0.05)


@needs_mpi
def test_an_error_of_one_rank_is_named_and_all_go_on(of_two_ranks, tiny):
    task = of_two_ranks(FAULTS, "Task")
    with Arena(TINY) as arena:
        with pytest.raises(Refused, match="rnnfast, 2 ranks: RankError: rank 1: ValueError: one"):
            arena.enter(replace(task, options={"fault": "raise"}))
        (worker,) = arena.enter(task)
        assert worker.ask("turn", seconds=0, settling=0) > 0
        assert len(running(tiny)) == 2
    wait_until_none_is_running(tiny)


@needs_mpi
@pytest.mark.parametrize("fault", ["die", "hang"])
def test_a_rank_that_dies_or_hangs_ends_all(monkeypatch, of_two_ranks, tiny, fault):
    with Arena(TINY) as arena:
        (worker,) = arena.enter(of_two_ranks(FAULTS, "Task"))
        monkeypatch.setattr(duel, "LIMIT", 1.0)
        with pytest.raises(Refused, match="rnnfast, 2 ranks: ended without an answer"):
            worker.ask("call", name=fault)
        wait_until_none_is_running(tiny)


@pytest.mark.skipif(os.name == "nt", reason="the launcher is a script of a shell")
def test_what_a_launcher_says_is_no_answer(monkeypatch, tiny):
    script = tiny / "mpiexec"
    script.write_text("#!/bin/sh\nread line\necho\necho BAD TERMINATION\n")
    script.chmod(0o755)
    monkeypatch.setattr(duel, "launcher", lambda: str(script))
    with Arena(TINY) as arena, pytest.raises(Refused, match="2 ranks: ended without an answer"):
        arena.enter(replace(entry("rnnfast"), ranks=2))


def test_a_rank_that_waits_for_a_request_sleeps(monkeypatch):
    seen, requests = iter([False, False, True, True]), iter(['{"do": "turn"}', '{"do": "end"}'])
    comm = SimpleNamespace(iprobe=lambda source: next(seen), recv=lambda source: next(requests))
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", SimpleNamespace(COMM_WORLD=comm))
    slept = []
    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=slept.append))
    assert list(worker.requests(SimpleNamespace(rank=1, size=2))) == [{"do": "turn"}]
    assert slept == [worker.NAP] * 2


def test_ranks_make_as_many_calls_in_a_turn():
    class Other(OneRank):
        """Says how long a turn is, against what this rank sees."""

        said = iter([False, False, True, True, False])

        def any(self, mine):
            return next(self.said)

    calls = []
    worker.turn(SimpleNamespace(run=lambda: calls.append(1)), 1000, 0, Other())
    assert len(calls) == 3


def test_plot_is_a_png(tiny):
    pytest.importorskip("matplotlib", reason="matplotlib draws the plot, and is not installed")
    write_plot("b.png", [(TABLES["lstm"], [Row("a", 1, "PyTorch", 1.0, 2.0, 2.0, work=1.0)])])
    assert (tiny / "b.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib_is_an_error_before_anything_is_measured(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "--table", "lstm", "--plot", "b.png"]) == 1
    out, err = capsys.readouterr()
    assert "--plot needs matplotlib" in err
    assert out == ""


def test_settings_that_matplotlib_cannot_use_are_told_before_anything_is_measured(
    tiny, monkeypatch, capsys
):
    (tiny / "matplotlib.py").write_text("raise ValueError('junk is no backend')")
    monkeypatch.syspath_prepend(tiny)
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    assert main(["bench", "--table", "lstm", "--plot", "b.png"]) == 1
    told = "rnnfast: error: b.png: matplotlib cannot be used: junk is no backend\n"
    assert capsys.readouterr() == ("", told)


@pytest.mark.parametrize("option", ["--json", "--markdown", "--plot"])
@pytest.mark.parametrize("make", [os.mkdir, getattr(os, "mkfifo", os.mkdir)])
def test_what_is_no_file_is_told_before_anything_is_measured(make, option, tiny, capsys):
    make(place := "taken")  # no device: where this fails, it is replaced
    assert main(["bench", "--table", "lstm", option, place]) == 1
    out, err = capsys.readouterr()
    assert re.match(rf"rnnfast: error: {place} is a \w+, expected a file; move it, or", err)
    assert out == ""


def layer_task(**options):
    return ours.Layer(1, **{"cell": "lstm", "dtype": "float32", "way": "both", **options})


def test_options_reach_the_layer():
    shape = (4, 6, 3, 5)
    plain = layer_task(shape=shape)
    ragged = layer_task(shape=shape, ragged=True)
    lengths = problems.lengths(shape)
    assert lengths.min() >= 1
    assert lengths.max() <= 6
    beyond = np.arange(6) >= lengths[:, None]
    assert beyond.any()
    hs, dxs, *_ = ragged.results()
    assert not hs[beyond].any()
    assert not dxs[beyond].any()
    assert plain.results()[0][beyond].all()
    assert layer_task(shape=shape, directions=2).results()[0].shape == (4, 6, 10)
    assert layer_task(shape=shape, layers=2).layer.num_layers == 2
    for name in cases.REGULARISATIONS:
        assert getattr(layer_task(shape=shape, **{name: 0.25}).layer, name) == 0.25
    inference = layer_task(shape=shape, way="inference")
    np.testing.assert_array_equal(inference.run()[0], plain.results()[0])
    with pytest.raises(RuntimeError, match="forward call"):
        inference.layer.backward(inference.dhs)


def test_work_is_that_of_all_directions_layers_and_steps():
    shape = (4, 6, 5, 5)
    one = problems.layer_gflops("gru", shape, "both")
    assert one == pytest.approx(2e-9 * 24 * 10 * 15 * 3)
    assert problems.layer_gflops("gru", shape, "inference") == pytest.approx(one / 3)
    assert problems.layer_gflops("gru", shape, "both", directions=2) == pytest.approx(2 * one)
    assert problems.layer_gflops("gru", shape, "both", layers=2) == pytest.approx(2 * one)
    steps = problems.lengths(shape).sum() / 24
    assert problems.layer_gflops("gru", shape, "both", ragged=True) == pytest.approx(steps * one)


WRONG = """
import numpy as np
from rnnfast.bench import numpy_peer

class Layer(numpy_peer.Layer):
    def results(self):
        hs, *others = super().results()
        return [hs + {error}, *others]
"""


@pytest.mark.parametrize("error", ["np.float32(0.01)", "np.float32('nan')"])
def test_a_contestant_with_wrong_results_is_refused(monkeypatch, tiny, capsys, error):
    (tiny / "wrong.py").write_text(WRONG.format(error=error))
    monkeypatch.setenv("PYTHONPATH", str(tiny), prepend=os.pathsep)
    monkeypatch.setitem(duel.CONTESTANTS, "torch", ("wrong", "numpy", "Wrong"))
    only(monkeypatch, "rnnfast", "torch")
    with pytest.raises(InputError, match="results of rnnfast and Wrong differ"):
        run(["lstm"], threads=[1])
    # no time, no ratio: only the target
    expected = r"^1,2,3,4 +1 +Wrong +>=1.15 results of rnnfast and Wrong differ$"
    assert re.search(expected, capsys.readouterr().out, re.MULTILINE)


WRONG_SOMEWHERE = """
from rnnfast.bench import numpy_peer, textbook_peer

def off(results):
    first, *others = results
    return [first + first.dtype.type(0.01), *others]

class Layer(numpy_peer.Layer):
    def results(self):
        right = super().results()
        return off(right) if self.lengths is not None else right

class Affine(textbook_peer.Affine):
    def results(self):
        return off(super().results())

class Step(textbook_peer.Step):
    def results(self):
        return off(super().results())
"""


def test_what_computes_something_else_is_compared_with_a_twin_of_its_own(monkeypatch, tiny):
    (tiny / "wrong.py").write_text(WRONG_SOMEWHERE)
    monkeypatch.setenv("PYTHONPATH", str(tiny), prepend=os.pathsep)
    monkeypatch.setitem(duel.CONTESTANTS, "numpy", ("wrong", "numpy", "Wrong"))
    plain, ragged = entry("rnnfast"), layer("rnnfast", "lstm", SHAPE, ragged=True)
    with Arena(TINY) as arena:
        bench = Bench(arena, [1])
        (right,) = bench.rows("x", plain, [Peer(plain, same=False)])
        assert (right.note, right.ratio > 0) == ("", True)
        for ours, other in ((plain, Peer(ragged, same=False)), (ragged, Peer(ragged))):
            (row,) = bench.rows("x", ours, [other])
            assert (row.note, row.ratio) == ("results of rnnfast and Wrong differ", None)


def test_wrong_steps_are_refused(monkeypatch, tiny, capsys):
    (tiny / "wrong.py").write_text(WRONG_SOMEWHERE)
    monkeypatch.setenv("PYTHONPATH", str(tiny), prepend=os.pathsep)
    monkeypatch.setitem(duel.CONTESTANTS, "torch", ("wrong", "numpy", "Wrong"))
    only(monkeypatch, "rnnfast", "textbook", "torch")
    with pytest.raises(InputError, match="results of rnnfast and Wrong differ"):
        run(["few-rows"], quick=True, threads=[1])
    assert len(re.findall(" Wrong .*Wrong differ$", capsys.readouterr().out, re.MULTILINE)) == 3


def test_a_contestant_that_fails_or_dies_is_named_and_the_table_goes_on(monkeypatch, tiny):
    (tiny / "broken.py").write_text(
        "import os\nclass Layer:\n    def __init__(*_, **__): os._exit(3)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tiny), prepend=os.pathsep)
    with Arena(TINY) as arena:
        with pytest.raises(Refused, match="rnnfast: KeyError: 'none'"):
            arena.enter(layer("rnnfast", "none", SHAPE))
        monkeypatch.setitem(duel.CONTESTANTS, "torch", ("broken", "numpy", "Broken"))
        only(monkeypatch, "rnnfast", "torch")
        (row,) = Bench(arena, [1]).rows("x", entry("rnnfast"), [Peer(entry("torch"))])
        assert row.note == "Broken: ended without an answer"
        assert len(arena.enter(entry("rnnfast"))) == 1


def test_contestants_have_processes_of_their_own_and_leave_none_behind():
    with Arena(TINY) as arena:
        workers = arena.enter(entry("rnnfast"), entry("rnnfast"), entry("numpy"))
        processes = [worker.process for worker in workers]
        assert len({process.pid for process in processes}) == 3
        times, ratios = arena.race(workers)
        assert min(times) > 0
        assert ratios[0] == 1
        assert arena.enter(entry("rnnfast"))[0] is workers[0]
        assert processes[1].poll() is not None
    assert all(process.poll() is not None for process in processes)


def test_optional_peers_compute_the_same(monkeypatch):
    names = [name for name in ("torch", "jax") if installed_version(name)]
    if not names:
        pytest.skip("neither PyTorch nor JAX is installed")
    with Arena(TINY) as arena:
        arena.check(arena.enter(entry("numpy"), *map(entry, names)))
        if "torch" in names:
            deep = {**MODELS[1], "layers": 2}
            tasks = [("Generation", GENERATION), *(("Training", m) for m in [*MODELS, deep])]
            tasks += [*STEPS, *BETWEEN]
            ours = [Entry("rnnfast", task, options) for task, options in tasks]
            ours += [layer("rnnfast", cell, (4, 6, 3, 5), **options) for cell, options in LAYERS]
            for entry_of_ours in ours:
                arena.check(arena.enter(entry_of_ours, replace(entry_of_ours, name="torch")))


def test_the_textbook_makes_the_same_steps_and_texts():
    with Arena(TINY) as arena:
        texts = [("Generation", {**GENERATION, "cell": cell}) for cell in ("rnn", "lstm", "gru")]
        for task, options in [*STEPS, *BETWEEN, *texts]:
            arena.check(arena.enter(*(Entry(n, task, options) for n in ("rnnfast", "textbook"))))


@pytest.mark.parametrize("options", MODELS, ids=lambda options: options["cell"])
def test_the_textbook_trains_the_same_model_in_float32(options):
    with Arena(TINY) as arena:
        arena.check(arena.enter(*(Entry(n, "Training", options) for n in ("rnnfast", "textbook"))))
    task = textbook_peer.Training(1, **options)
    before = [W.copy() for W in task.model.params]
    losses, *params = task.results()
    assert len(losses) == 4
    for W, start in zip(params, before, strict=True):
        assert not np.array_equal(W, start)
    kept = list(arrays(task.model))
    assert {x.dtype.kind + str(x.itemsize) for x in kept} == {"f4", "i8", "b1"}


@pytest.mark.parametrize("model", ["Seq2seq", "PeekySeq2seq", "AttentionSeq2seq"])
def test_the_textbook_trains_the_same_answers(model):
    options = {"model": model, **ANSWERS}
    with Arena(TINY) as arena:
        arena.check(arena.enter(*(Entry(n, "Answering", options) for n in ("rnnfast", "textbook"))))


@pytest.mark.parametrize(("name", "options"), PROGRAMS, ids=lambda x: str(x)[:40])
def test_programs_of_the_textbook_lose_the_same(name, options):
    options = {"name": name, **options}
    tasks = ["Program"] + ["ProgramWithAttention"] * (name == "dates")
    with Arena(TINY) as arena:
        for task in tasks:
            pair = Entry("rnnfast", task, options), Entry("textbook", "Program", options)
            arena.check(arena.enter(*pair))
    task = textbook_peer.Program(1, **options)
    losses, second = (x for _ in range(2) for x in task.results())
    assert len(losses) == options["steps"] + ("evaluated" in options)
    assert not np.array_equal(losses, second)  # it goes on where it was
    assert np.isfinite(losses).all()
    assert task.run() is not None


@pytest.mark.parametrize("faint", ["inputs", "weights", "gradients", "fading gradients"])
def test_what_is_denormal_in_a_layer(faint):
    task = ours.FaintLayer(1, faint=faint, cell="lstm", dtype="float32", shape=SHAPE, way="both")
    smallest = np.finfo("f").smallest_normal
    arrays = {"inputs": task.xs, "weights": task.layer.params[0], "gradients": task.dhs}
    assert {k: bool(np.abs(x).max() < 5 * smallest) for k, x in arrays.items()} == {
        k: k == faint for k in arrays
    }
    if faint == "fading gradients":
        assert np.flatnonzero(np.abs(task.dhs).max(axis=(0, 2))).tolist() == [SHAPE[1] - 1]


def test_what_becomes_denormal_in_steps_and_losses():
    """In NumPy, where it stays so."""
    for size, kept in ((1e-20, 1), (1e-39, 0)):
        task = numpy_peer.Update(1, optimizer="Adam", size=size, shape=(40, 50))
        task.run()
        slot = np.abs(task.optimizer.state[0][kept])
        assert 0 < slot.max() < np.finfo("f").smallest_normal
    for loss in cases.FAINT_LOSSES:
        task = numpy_peer.Loss(1, loss=loss, M=3, V=8, lower=cases.LOWER)
        found = np.abs(task.run()[1])
        if loss != "TimeAffineWithLoss":  # whose probabilities nobody sees
            assert 0 < found[found > 0].min() < np.finfo("f").smallest_normal, loss


def test_dropouts_are_compared_by_what_they_do():
    kept, found = ours.Dropout(1, shape=(20, 30, 4)).results()
    np.testing.assert_array_equal(kept, [5])
    np.testing.assert_allclose(found, [[2, 2], [2, 2], [0, 0]], rtol=1e-6)


def arrays(thing):
    """All arrays in an object, the objects in it, and so on."""
    if isinstance(thing, np.ndarray):
        yield thing
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from arrays(part)
    elif hasattr(thing, "__dict__") and not isinstance(thing, type):
        yield from arrays(list(vars(thing).values()))


def test_agree():
    x = np.ones(3, "f")
    assert agree(x, x + np.float32(1e-6))
    assert not agree(x, x + np.float32(1e-3))
    assert not agree(x, np.ones(4, "f"))
    assert not agree(x * np.nan, x)
    assert agree(0 * x, x * np.float32(1e-39))
    assert not agree(0 * x, x * np.float32(1e-30))
    assert not agree(np.arange(3), np.arange(3) + 1)


def test_rows_say_whether_the_target_is_met():
    row = Row("x", 1, "PyTorch", 2.0, 5.0, 2.5, 2.0, work=4.0)
    assert cells(row) == ["x", "1", "2.000", "PyTorch", "5.000", "2.50", "2,000", ">=2", "met"]
    row.ratio = 1.9
    assert cells(row)[-1] == "NOT MET"
    (written,) = as_json({}, "", [(TABLES["lstm"], [row])])["tables"][0]["rows"]
    assert (written["ratio"], written["target"], written["met"]) == (1.9, 2.0, False)
    assert "GF/s" in text_head(TABLES["lstm"])
    mean, _ = TABLES["lstm"].mean_rows([row, row, Row("y", 2, "PyTorch"), row, *[
        Row("z", 2, "PyTorch", ratio=r) for r in (1.0, 4.0)]])  # fmt: skip
    assert (mean.threads, mean.target, mean.met) == (1, 2.0, False)


def test_a_folder_that_is_not_there_is_an_error_before_anything_is_measured(capsys):
    assert main(["bench", "--table", "lstm", "--json", "nowhere/b.json"]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_unknown_table_is_one_clear_line(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--table", "nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
