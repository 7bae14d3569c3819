"""The README's Python examples run, and its commands are those that are tested; CONTRIBUTING names
files that there are, and draws the imports that there may be.
"""

import re
from pathlib import Path

import pytest
from test_imports import ORDER

import rnnfast
from rnnfast.training import runs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WRITTEN = {  # the examples, and what each leaves in the folder in which it runs
    "run": ["my-run/best.npz", "my-run/history.csv", "my-run/last.npz"],
    "pieces": ["model.npz"],
    "network": ["network.npz"],
    "drop-in": [],
}
CODE = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
EXAMPLES = dict(zip(WRITTEN, CODE, strict=True))


@pytest.fixture
def printed(monkeypatch, capsys, tmp_path):
    """What an example prints, as a list of words; it runs in an empty folder."""
    text = "the quick brown fox jumps over the lazy dog. The end.\n" * 60
    for module in (rnnfast, runs):  # the real one takes seconds
        monkeypatch.setattr(module, "builtin_corpus", lambda: text)
    monkeypatch.chdir(tmp_path)

    def run(name):
        exec(compile(EXAMPLES[name], "README.md", "exec"), {})
        return capsys.readouterr().out.split()

    return run


@pytest.mark.parametrize("name", WRITTEN)
def test_examples_run(name, printed, tmp_path):
    assert 0 < float(printed(name)[0]) < 5
    files = sorted(f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*") if f.is_file())
    assert files == WRITTEN[name]


def test_compiled_and_numpy_agree_in_the_network(printed):
    """As the comment at the end of the example says."""
    assert float(printed("network")[-1]) < 1e-13


def test_the_commands_stand_word_for_word():
    lines = README.splitlines()
    assert 'pip install ".[plot]" && rnnfast train' in lines
    assert 'pip install -e ".[test]" && pytest' in lines


def test_every_public_name_is_in_the_table():
    undocumented = [
        name
        for name in rnnfast.__all__
        if not name.startswith("_") and f"`{name}" not in README and f"rnnfast.{name}" not in README
    ]
    assert undocumented == []


def test_the_picture_in_contributing_is_the_order_of_imports():
    picture = re.search(r"^```\n(cli .*?)^```$", CONTRIBUTING, re.DOTALL | re.MULTILINE)[1]
    lines = [line[:24].split() for line in picture.splitlines() if "(C)" not in line]
    drawn = [word.removeprefix("rnnfast/").replace("/", ".") for line in lines for word in line]
    ranks = {name: rank for rank, names in enumerate(ORDER) for name in names}
    assert {*drawn} == ranks.keys() - {"__main__", "reference.__init__"}
    assert [ranks[name] for name in drawn] == sorted(map(ranks.get, drawn), reverse=True)


def test_contributing_names_files_that_there_are():
    named = set(re.findall(r"(?<![\w/])(?:\w+/)*\w+\.(?:pyx|pxd|py|h|c|toml)\b", CONTRIBUTING))
    assert len(named) > 30
    there = [
        "/" + file.relative_to(ROOT).as_posix()
        for folder in (ROOT / "rnnfast", ROOT / "tests", ROOT)
        for file in (folder.rglob("*") if folder != ROOT else folder.glob("*"))
    ]
    names = {name for name in named if "NAME" not in name}
    assert {name for name in names if not any(file.endswith("/" + name) for file in there)} == set()
