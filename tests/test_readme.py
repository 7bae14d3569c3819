"""The README's Python examples run, and its commands are those that are tested."""

import re
from pathlib import Path

import pytest

import rnnfast

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=["library", "drop-in"])
def test_examples_run(example, monkeypatch, capsys):
    text = "the quick brown fox jumps over the lazy dog. The end.\n" * 60
    monkeypatch.setattr(rnnfast, "builtin_corpus", lambda: text)  # the real one takes a minute
    exec(compile(example, "README.md", "exec"), {})
    figure = float(capsys.readouterr().out.split()[0])
    assert 0 < figure < 5


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
