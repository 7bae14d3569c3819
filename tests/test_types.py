"""What type checkers make of the package, and of a program that uses it."""

import doctest
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from rnnfast.layers import base

TESTS = Path(__file__).parent


def test_the_typed_program_runs(capsys):
    runpy.run_path(str(TESTS / "typed_program.py"), run_name="__main__")
    assert "nats, perplexity" in capsys.readouterr().out


def test_it_and_the_package_pass_mypy():
    """Strict, as pyproject.toml has it: files and options are there."""
    pytest.importorskip("mypy", reason="mypy is not installed; it is in the extra lint")
    command = [sys.executable, "-m", "mypy", "--no-error-summary"]
    done = subprocess.run(command, check=False, cwd=TESTS.parent, capture_output=True, text=True)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_the_example_of_a_layer_of_ones_own():
    results = doctest.testmod(base)
    assert results.attempted
    assert not results.failed
