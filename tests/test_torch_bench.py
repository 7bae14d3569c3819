"""Benchmarks of modules for PyTorch, on tiny sizes: that they run and refuse, not how fast."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it takes turns with ours")

from rnnfast.bench import torch_modules  # noqa: E402
from rnnfast.bench.duel import Arena, Pace  # noqa: E402
from rnnfast.bench.tables import TABLES, cases  # noqa: E402
from rnnfast.bench.tables.rows import Bench  # noqa: E402
from rnnfast.torch import last_path  # noqa: E402

PACE = {"turn": 0.001, "seconds": 0.0, "rounds": 2, "most_seconds": 1.0}
SIZES = {"shape": (2, 3, 4, 5), **PACE}


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("way", ["both", "inference"])
@pytest.mark.parametrize("packed", [False, True])
def test_modules_take_turns_after_their_results_were_compared(cell, way, packed, monkeypatch):
    made = []
    original = torch_modules.accelerate
    monkeypatch.setattr(torch_modules, "accelerate", lambda m: made.append(original(m)) or made[-1])
    task = torch_modules.Modules(1, cell=cell, way=way, packed=packed, **SIZES)
    assert min(task.race()) > 0
    assert last_path(made[0]) == "rnnfast"
    with torch.no_grad():
        made[0].weight_hh_l0.add_(1)
    with pytest.raises(AssertionError, match="not close"):
        task.race()


def test_training_steps_take_turns():
    task = torch_modules.ModuleTraining(1, cell="gru", N=2, T=3, V=7, H=4, **PACE)
    assert min(task.race()) > 0


def test_tables_have_rows_of_it(monkeypatch):
    monkeypatch.setattr(cases, "MODULE_SHAPES", [(20, 3, 4, 5), (21, 2, 3, 4)] * 2)
    sizes = {"cell": "gru", "N": 2, "T": 3, "V": 7, "H": 4}
    monkeypatch.setattr(cases, "MODULE_TRAINING", [(sizes, 1.5)])
    with Arena(Pace(turn=0.001, seconds=0, rounds=2)) as arena:
        for name, count in (("torch", 25), ("packed", 9)):
            table = TABLES[name]
            rows = list(table.measure(Bench(arena, [1])))
            assert len(rows) == count
            assert {row.note for row in rows} == {""}
            assert all(row.ratio and row.target for row in rows)
            means = {row.peer: row.target for row in table.mean_rows(rows)}
            assert {*table.means} <= {*means}
