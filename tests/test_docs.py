"""What users read: every block of README and docs runs, links lead somewhere, figures are those of
the benchmarks, and all names, commands and options are there. CONTRIBUTING names files that there
are, and draws the imports that there may be.

A page runs from top to bottom, in one namespace and one folder, which holds `my.txt` and a program
in the textbook's style. What is different from what a reader does: the built-in corpus is a short
text, SMALLER options are added to commands that take minutes, benchmarks are planned and not
measured, nothing is installed, and one process does what a launcher would have several do, its
communicator being None. A `text` block directly behind a block shows what that prints,
`...` standing for lines: every word of it, and of Python every number, within TOLERANCE.
"""

import inspect
import math
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_imports import ORDER
from textbook_programs import TRAINER

import rnnfast
from rnnfast.bench.duel import launcher
from rnnfast.bench.tables import TABLES
from rnnfast.cli import bench, main
from rnnfast.cli.commands import COMMANDS
from rnnfast.systems.examples import EXAMPLES

ROOT = Path(__file__).parents[1]
PAGES = {  # those whose blocks run
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
README, ALL_PAGES = PAGES["README.md"], "\n".join(PAGES.values())
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SCALE_OUT = PAGES["docs/scale-out.md"]
BENCHMARKS = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
RANKS = (ROOT / "benchmarks" / "ranks.md").read_text(encoding="utf-8")
LINKED = [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md"]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

SENTENCES = ["the quick brown fox jumps over the lazy dog.", "The class of a cat is an animal."]
TEXT = "\n".join(SENTENCES * 120) + "\n"
SMALLER = {
    "train": "--hidden 8 --embedding 8 --layers 1 --batch 4 --time 10 --epochs 1",
    "example": "--pairs 50 --epochs 1",
}
MPIEXEC = launcher()
LAUNCHERS = ("mpiexec", "srun")
TOLERANCE = 0.02  # a number of training differs in its last digits from machine to machine

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"[-+]?\b(?:\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?|inf|nan)\b")
MEAN = re.compile(r"^\| geometric mean \| (\d) \|  \| ([^|]*) \|  \| ([\d.]+) \|", re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder in which a page runs."""
    topics = SimpleNamespace(
        topics={"all": TEXT}
    )  # the built-in corpus; the real one takes seconds
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", topics)
    # MPI in this process would get into the way of an mpiexec that other tests start
    mpi4py = SimpleNamespace(MPI=SimpleNamespace(COMM_WORLD=None))
    monkeypatch.setitem(sys.modules, "mpi4py", mpi4py)
    monkeypatch.setattr(bench, "run_bench", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    monkeypatch.setenv("PATH", path)  # `python` is this one
    (tmp_path / "my.txt").write_text(TEXT)
    data = "import numpy as np\n\ncorpus, V = np.arange(200) % 7, 7\n"
    (tmp_path / "train.py").write_text(data + TRAINER.replace("trainer.plot", "# trainer.plot"))
    threads = rnnfast.get_num_threads()
    yield tmp_path
    rnnfast.set_num_threads(threads)


def commands(code):
    """The commands of a block, each on one line."""
    lines = re.split(r"\n|&&", code.replace("\\\n", " "))
    return [line.strip() for line in lines if shlex.split(line, comments=True)]


def run_command(command):
    """Run one command as a reader would, but for what is said above."""
    words = shlex.split(command, comments=True)
    if words[0] in LAUNCHERS:
        words = words[words.index("rnnfast") :]
    program, *arguments = words
    if program == "rnnfast":
        if "--resume" not in arguments:  # a resumed run keeps its sizes
            arguments += SMALLER.get(arguments[0], "").split()
        assert exit_code(arguments) == 0, command
    elif program == "pip":
        asked = [extra for word in words for extra in re.findall(r"(?<=\[)[\w,]+(?=\])", word)]
        assert {name for extra in asked for name in extra.split(",")} <= EXTRAS.keys(), command
    elif program != "pytest":
        # a shell, for patterns of names
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        print(done.stdout)


def exit_code(arguments):
    try:
        return main(arguments)
    except SystemExit as stop:  # of --help, or of an option that there is not
        return stop.code


def differences(shown, printed, kind):
    """Lines that are shown and not printed; of Python all lines, in their order."""
    shown, printed = (
        [" ".join(line.split()) for line in lines if line.strip()] for lines in (shown, printed)
    )
    if kind == "sh":
        there = {NUMBER.sub("#", line) for line in printed}
        return [line for line in shown if line != "..." and NUMBER.sub("#", line) not in there]
    wrong = []
    while shown:
        line = shown.pop(0)
        if line == "...":
            while printed and not (shown and same(shown[0], printed[0])):
                printed.pop(0)
        elif not printed or not same(line, printed.pop(0)):
            wrong.append(line)
    return wrong + [f"not shown: {line}" for line in printed]


def same(shown, printed):
    numbers = [
        [float(number.replace(",", "")) for number in NUMBER.findall(line)]
        for line in (shown, printed)
    ]
    return NUMBER.sub("#", shown) == NUMBER.sub("#", printed) and numbers[0] == pytest.approx(
        numbers[1], rel=TOLERANCE, nan_ok=True
    )


def blocks(text):
    """Kind, code and first line of each block, and whether it stands directly behind another."""
    end = 0
    for found in BLOCK.finditer(text):
        kind, code = found.groups()
        follows = not text[end : found.start()].strip()
        yield kind, code, text.count("\n", 0, found.start(2)) + 1, follows
        end = found.end()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs_and_prints_what_is_shown(page, folder, capsys):
    if page == "docs/torch.md":
        pytest.importorskip("torch", reason="the page is for programs of PyTorch, not installed")
    namespace, ran, printed = {"__name__": "__main__"}, "", ""
    for kind, code, line, follows in blocks(PAGES[page]):
        if kind == "text" and follows and ran:
            wrong = differences(code.splitlines(), printed.splitlines(), ran)
            assert wrong == [], f"{page}, line {line}"
            continue
        ran = kind if kind in ("python", "sh") else ""
        if kind == "python":
            exec(compile("\n" * (line - 1) + code, page, "exec"), namespace)
            printed = capsys.readouterr().out
        elif kind == "sh":
            for command in commands(code):
                run_command(command)
            printed = "".join(capsys.readouterr())


@pytest.mark.skipif(MPIEXEC is None, reason="needs mpi4py and an mpiexec")
def test_the_program_for_several_ranks_runs_on_two(folder):
    (program,) = (code for _, code in BLOCK.findall(SCALE_OUT) if "COMM_WORLD" in code)
    (folder / "my_program.py").write_text(program)
    asked = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    asked["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"  # of Open MPI, on one core
    done = subprocess.run(
        [MPIEXEC, "-n", "2", sys.executable, "-m", "mpi4py", "my_program.py"],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(NUMBER.findall(done.stdout)) == 1  # from rank 0 alone
    assert (folder / "model.npz").exists()


def test_blocks_are_of_known_kinds():
    kinds = {page: {kind for kind, _ in BLOCK.findall(text)} for page, text in PAGES.items()}
    assert set().union(*kinds.values()) <= {"python", "sh", "text", "mermaid"}, kinds
    for page, text in PAGES.items():
        assert text.count("```") == 2 * len(BLOCK.findall(text)), page


def test_what_a_comparison_sees():
    shown = ["loss 1.23 in epoch 2", "...", "done"]
    assert differences(shown, ["loss 1.232 in epoch 2", "a", "b", "done"], "python") == []
    assert differences(shown, ["loss 1.3 in epoch 2", "done"], "python") == shown[:1]
    assert differences(shown, ["loss 1.23 in epoch 2", "done", "more"], "python")
    assert differences(shown, ["done", "loss 7 in epoch 1"], "sh") == []
    assert differences(shown, ["done", "loss 7 at epoch 1"], "sh") == shown[:1]


def test_the_commands_stand_word_for_word():
    lines = README.splitlines()
    assert 'pip install ".[plot]" && rnnfast train' in lines
    assert any('pip install -e ".[test]" && pytest' in page.splitlines() for page in PAGES.values())


def test_every_public_name_is_explained():
    undocumented = [
        name
        for name in rnnfast.__all__
        if not name.startswith("_")
        and f"`{name}" not in ALL_PAGES
        and f"rnnfast.{name}" not in ALL_PAGES
    ]
    assert undocumented == []


def test_arguments_of_calls_in_a_line_are_those_that_there_are():
    calls = re.findall(r"`(?:rnnfast\.)?([A-Z]\w+)\(([^`]*)\)`", BLOCK.sub("", ALL_PAGES))
    assert calls
    for name, given in calls:
        there = inspect.signature(getattr(rnnfast, name)).parameters
        arguments = [argument.partition("=")[0].strip() for argument in given.split(",")]
        assert {word for word in arguments if word.isidentifier()} <= there.keys(), name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_explained(command, capsys):
    assert f"rnnfast {command}" in ALL_PAGES
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = {*re.findall(r"(?<![\w-])--[a-z][\w-]*", capsys.readouterr().out)} - {"--help"}
    unexplained = {option for option in options if not re.search(rf"{option}(?![\w-])", ALL_PAGES)}
    assert unexplained == set()


def anchors(text):
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    plain = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", LINKED)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


def test_every_page_is_linked_from_the_readme_and_from_the_index():
    pages = {page.removeprefix("docs/") for page in PAGES} - {"README.md"}
    assert {page for page in pages if f"](docs/{page}" not in README} == set()
    assert {page for page in pages if f"]({page}" not in PAGES["docs/README.md"]} == set()


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_shown_to_their_last_epoch(name):
    epochs = EXAMPLES[name].epochs
    shown = rf"^rnnfast example {name}(?: .*)?\n```\n\n```text\n\.\.\.\nepoch (\d+)/(\d+): "
    assert re.findall(shown, ALL_PAGES, re.MULTILINE) == [(str(epochs), str(epochs))]


def test_no_code_in_a_line_is_broken_at_a_hyphen():
    for page, text in PAGES.items():
        inline = re.findall(r"`[^`]+`", BLOCK.sub("", text))
        assert [code for code in inline if re.search(r"-\n", code)] == [], page


def charts(text):
    return [code for kind, code in BLOCK.findall(text) if kind == "mermaid"]


def means(table, peer="PyTorch"):
    """Geometric means of a table of the benchmarks, beside a peer: {threads: ratio}."""
    section = re.search(rf"^## {table}$(.*?)(?=^## |\Z)", BENCHMARKS, re.DOTALL | re.MULTILINE)
    assert section, f"benchmarks/README.md has no table {table}"
    return {int(n): float(ratio) for n, name, ratio in MEAN.findall(section[1]) if name == peer}


@pytest.mark.parametrize("page", PAGES)
def test_figures_of_speed_are_those_of_the_benchmarks(page):
    """Rows of tables that begin with the name of one of the benchmarks, and charts whose comment
    is the command that measures them."""
    for name, one, two in re.findall(
        r"^\| `([\w-]+)` \| .* \| (.*) \| (.*) \|$", PAGES[page], re.M
    ):
        if name in TABLES:
            assert {1: float(one), 2: float(two)} == means(name), name
    for label, *ratios in re.findall(
        r"^\| (chapter .*) \| (.*) \| (.*) \|$", PAGES[page], re.MULTILINE
    ):
        measured = rf"^\| {re.escape(label)} \| \d \| .* \| ([\d.]+) \|(?: [^|]*\|){{3}}$"
        assert ratios == re.findall(measured, BENCHMARKS, re.MULTILINE), label
    for chart in charts(PAGES[page]):
        if command := re.search(r"%% rnnfast bench --table (.*)", chart):
            bars = re.search(r"^ *bar \[(.*)\]$", chart, re.MULTILINE)[1]
            expected = [means(table)[2] for table in command[1].split()]
            assert [float(bar) for bar in bars.split(",")] == expected


MODELS = ("`lstm 64,50,65,64,512`", "`lstm 20,35,10000,650,650`")  # of docs/scale-out.md
NETWORKS = ("10 Gbit/s", "100 Gbit/s")


def constants(name, page=SCALE_OUT):
    """The numbers in the row of a table that begins so."""
    found = re.search(rf"^\| {re.escape(name)} \| (.*) \|$", page, re.MULTILINE)
    assert found, f"there is no row {name}"
    return [float(text.replace(",", "")) for text in re.findall(r"\d[\d,.]*", found[1])]


def step_ms(model, lanes, ranks, network, size):
    """Time of a step by the formula of docs/scale-out.md, with so many lanes for each rank."""
    all_lanes, whole, half, short, parts = (
        constants(name)[model]
        for name in (
            "lanes of a step",
            "step of one rank and one thread, ms",
            "computing of one rank of two, with half of the lanes, ms",
            "short sums",
            "parts of 2 MB of all gradients",
        )
    )
    latency, bandwidth, *_ = constants(network)
    of_a_lane = (whole - half) / (all_lanes / 2)
    computing = whole - (all_lanes - lanes) * of_a_lane
    waiting = latency * math.log2(ranks) * (short + 2 * parts)
    return computing + waiting + 2 * (ranks - 1) / ranks * 1e3 * size / bandwidth


def measured_lines():
    """The rows of docs/scale-out.md that are in the benchmarks' table `ranks`, as they must stand
    there."""
    rows = [line.strip("| ").split(" | ") for line in RANKS.splitlines()]

    def measured(what, peer):
        """The rest of what a row is called, our time and that of the peer, and the rate."""
        found = [row for row in rows if row[0].startswith(what) and row[3].strip() == peer]
        assert found, f"the table ranks has no row {what}, {peer}"
        ((called, _, ours, _, theirs, _, rate, *_),) = found
        return called.removeprefix(what), ours, theirs, rate

    columns = []
    for called in MODELS:
        _, _, alone, _ = measured(called.strip("`"), "1 rank, 1 thread")
        summed, spent, step, _ = measured(called.strip("`"), "the whole step")
        numbers = float(alone), float(step) - float(spent), float(step), float(spent)
        columns.append([f"{x:.1f}" for x in numbers] + re.findall(r"[\d.]+", summed))
    names = (
        "step of one rank and one thread, ms",
        "computing of one rank of two, with half of the lanes, ms",
        "the same, measured",
        "of it communication, measured",
        "MB summed in a step of two ranks",
    )
    _, thousand, _, _ = measured("1000 sums of a number", "")
    _, _, _, rate = measured("sum of all gradients", "")
    network = f"| within this machine | {float(thousand) / 1000:.4f} | {rate} | measured: "
    return [
        *(f"| {' | '.join(row)} |" for row in zip(names, *columns, strict=True)),
        f"{network}a sum of one number; of all gradients of the larger model |",
    ]


def predicted_lines():
    """The rows of docs/scale-out.md that follow from its constants, as they must stand there."""
    lines, here = [], []
    for model, called in enumerate(MODELS):
        lanes, alone, size = (
            constants(name)[model]
            for name in (
                "lanes of a step",
                "step of one rank and one thread, ms",
                "MB of all gradients",
            )
        )
        for network in NETWORKS:
            for ranks in (8, 64, 1000):
                weak = step_ms(model, lanes, ranks, network, size)
                cells = [f"{weak:.0f}", f"{ranks * alone / weak:.1f}", "", ""]
                if ranks <= lanes:
                    strong = step_ms(model, math.ceil(lanes / ranks), ranks, network, size)
                    cells[2:] = f"{strong:.0f}", f"{alone / strong:.1f}"
                lines.append(f"| {' | '.join([called, network, f'{ranks:,}', *cells])} |")
        size = constants("MB summed in a step of two ranks")[model]
        here.append(f"{step_ms(model, lanes / 2, 2, 'within this machine', size):.1f}")
    return [*lines, f"| step of two ranks by the formula, ms | {' | '.join(here)} |"]


def test_the_model_on_paper_follows_from_its_constants():
    lines = measured_lines() + predicted_lines()
    assert [line for line in lines if line not in SCALE_OUT.splitlines()] == []


def test_the_critical_batch_follows_from_its_numbers():
    least, critical = map(
        int, re.search(r"least = (\d+) steps, critical = (\d+) lanes", SCALE_OUT).groups()
    )
    rows = re.findall(
        r"^\| ([\d,]+) \| ([\d,]+) \| 0\.\d+ \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$",
        SCALE_OUT,
        re.MULTILINE,
    )
    assert len(rows) > 3
    for row in rows:
        lanes, tokens, steps, read, predicted = (int(text.replace(",", "")) for text in row)
        assert (tokens, read) == (32 * lanes, 32 * lanes * steps)
        assert predicted == round(least * (1 + critical / lanes))
        assert predicted == pytest.approx(steps, rel=0.25)


@pytest.mark.parametrize("chart", charts(ALL_PAGES))
def test_charts_have_a_value_for_every_label(chart):
    labels = re.search(r"^ *x-axis .*\[(.*)\]$", chart, re.MULTILINE)[1].split(",")
    values = re.findall(r"^ *(?:bar|line) .*\[(.*)\]$", chart, re.MULTILINE)
    assert values
    for numbers in values:
        assert len(numbers.split(",")) == len(labels)
    assert "%% rnnfast " in chart  # the command that measures it


def test_commands_in_contributing_are_those_that_there_are(folder):
    lines = [line for kind, code in BLOCK.findall(CONTRIBUTING) if kind for line in commands(code)]
    ours = [line for line in lines if line.startswith("rnnfast ")]
    assert ours
    for line in ours:
        run_command(line)


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


def test_every_promise_has_its_test():
    page = (ROOT / "docs" / "reliability.md").read_text()
    tests = {path.name: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    files, names = (set(re.findall(p, page)) for p in (r"`(test_\w+\.py)`", r"`(test_\w+)`"))
    assert len(files) > 5
    assert len(names) > 15
    assert files <= tests.keys()
    for name in names:
        assert any(f"def {name}(" in text for text in tests.values()), name
