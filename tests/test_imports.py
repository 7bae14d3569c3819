"""What can be imported, what importing it costs, and what a copy without kernels says."""

import ast
import graphlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import rnnfast
from rnnfast import errors, kernels, layers, losses, models, reference, systems, text, training
from rnnfast.cli.commands import COMMANDS
from rnnfast.models import saving

PACKAGE = Path(rnnfast.__file__).parent
# What may import what: lowest first, and nothing imports upward. A folder stands for what is in it,
# unless a file of it stands elsewhere; the package's own face is `__init__`.
ORDER = [
    {
        "errors",
        "_checks",
        "_files",
        "_launch",
        "_locks",
        "_random",
        "_signals",
        "_start",
        "_types",
        "_version",
        "_zip",
        "archive",
        "cells",
    },
    {"kernels.engine"},
    {"kernels.panels"},
    {"kernels.products"},
    {"kernels.sums"},
    {"kernels", "reference"},
    {"_ops", "threads", "info"},
    {"layers"},
    {"losses"},
    {"reference.layers", "reference.__init__"},
    {"models"},
    {"text"},
    {"training"},
    {"systems", "textbook", "exchange", "torch"},
    {"__init__"},
    {"selfcheck", "bench"},
    {"cli"},
    {"__main__"},
]
SOURCES = {".py", ".pyi", ".pyx", ".pxd"}
KERNELS = [
    *("engine", "panels", "products", "sums", "recurrent", "forward_steps", "backward_steps"),
    *("affine", "affine_loss", "attention", "embedding", "generation", "sigmoid_loss"),
    *("softmax_loss", "masks", "optimizer_steps", "build"),
]
NO_KERNELS = {"build", "engine"}  # names in `kernels` that are no functions


def run_python(code, folder, *options, **environment):
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def public_classes(module):
    inside = f"{module.__name__}."
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and f"{value.__module__}.".startswith(inside) and name[0] != "_"
    ]


@pytest.mark.parametrize("module", [rnnfast, reference, kernels])
def test_all_is_what_there_is(module):
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("module", [errors, layers, losses, models, training, text, systems])
def test_every_public_class_can_be_imported_from_the_top(module):
    names = public_classes(module)
    assert names
    for name in names:
        assert name in rnnfast.__all__
        assert getattr(rnnfast, name) is getattr(module, name)
        assert getattr(module, name).__doc__


def test_reference_has_the_same_names_and_signatures():
    names = set(reference.__all__) - {"ops"}
    assert names == {*public_classes(layers), *public_classes(losses)} - {"Layer"}
    assert set(saving.LAYERS) == names
    for name in names:
        ours, twin = getattr(rnnfast, name), getattr(reference, name)
        assert inspect.signature(twin) == inspect.signature(ours)
        assert (twin.__name__, issubclass(twin, ours)) == (name, True)
        for method in ("forward", "backward"):
            ours_method, twin_method = getattr(ours, method), getattr(twin, method)
            assert inspect.signature(twin_method) == inspect.signature(ours_method)


def test_reference_computes_with_numpy(monkeypatch):
    """No kernel is called by a twin, and one is by every compiled layer."""
    called = []
    for name in kernels.__all__:
        if name not in NO_KERNELS:
            function = getattr(kernels, name)
            monkeypatch.setattr(
                kernels,
                name,
                lambda *a, f=function, **k: (called.append(f.__name__), f(*a, **k))[1],
            )
    x, weights = np.zeros((1, 1, 2)), (np.zeros((2, 8)), np.zeros((2, 8)), np.zeros(8))
    reference.TimeLSTM(*weights).forward(x)
    reference.TimeSoftmaxWithLoss().forward(x, [[0]])
    assert called == []
    rnnfast.TimeLSTM(*weights).forward(x)
    rnnfast.TimeSoftmaxWithLoss().forward(x, [[0]])
    assert called == ["recurrent_forward", "softmax_loss_forward"]


@pytest.mark.parametrize("name", sorted(set(kernels.__all__) - NO_KERNELS))
def test_kernels_have_the_signatures_of_their_twins(name):
    ours, twin = getattr(kernels, name), getattr(reference.ops, name)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(twin).parameters)
    assert not inspect.isfunction(ours), f"{name} is not compiled"
    assert twin.__doc__


def package_imports():
    """What each module of the package imports of it, inside functions too: {name: names}.

    Names have no "rnnfast." before them, and that of a folder's own file ends in "__init__".
    """
    files = [path for path in PACKAGE.rglob("*.p*") if path.suffix in SOURCES]
    names = [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in files]
    found = {name: set() for name in names}
    for path, name in zip(files, names, strict=True):
        for parts in imported(path):
            if parts[0] == "":  # relative: a dot for the folder, and one for each above it
                dots = parts.count("")
                parts = [*name.split(".")[:-dots], *parts[dots:]]
            elif parts[0] == "rnnfast":
                parts = parts[1:]
            else:
                continue
            found[name].add(module_of(parts, found))
    return {name: others - {name} for name, others in found.items()}


def module_of(parts, modules):
    """The module that a dotted name is, or in which it stands."""
    for own in (parts, parts[:-1]):
        for name in (".".join(own), ".".join([*own, "__init__"])):
            if name in modules:
                return name
    raise AssertionError(f"rnnfast has no {'.'.join(parts)}")


def imported(path):
    """The dotted names, in parts, of all that a file imports; a relative one begins with ""s."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".pyx", ".pxd"):  # as Python has it
        lines = re.findall(r"^ *(?:from [\w.]+ )?c?import (?:\([^)]+\)|.+)", text, re.MULTILINE)
        text = re.sub(r"\bcimport\b", "import", "\n".join(line.strip() for line in lines))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            base = [""] * node.level + (node.module.split(".") if node.module else [])
            yield from ([*base, alias.name] for alias in node.names)
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)


def rank(module):
    """Where a module stands in ORDER: by the longest of the names there that it begins with."""
    places = {name: k for k, names in enumerate(ORDER) for name in names}
    parts = module.split(".")
    starts = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((places[start] for start in starts if start in places), None)


def test_nothing_imports_upward():
    found = package_imports()
    assert {name for name in found if rank(name) is None} == set(), "not in ORDER"
    upward = [
        f"{name} imports {other}"
        for name, others in found.items()
        for other in others
        if rank(other) > rank(name)
    ]
    assert upward == []
    list(graphlib.TopologicalSorter(found).static_order())  # raises CycleError


def test_imports_are_seen_everywhere():
    """Cython's own, those inside functions, and those of a folder by its name."""
    found = package_imports()
    assert "kernels.engine" in found["kernels.recurrent"]
    assert "reference.__init__" in found["__init__"]
    assert found["layers.affine"] >= {"_checks", "layers.base"}
    assert "training.runs" in found["cli.train"]


def test_import_is_light():
    """Large optional packages are imported where they are used."""
    code = "import rnnfast, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = run_python(code, PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "rnnfast" in loaded
    assert not loaded & {"torch", "matplotlib", "scipy", "pandas", "onnx", "Cython", "setuptools"}


def test_modules_for_pytorch_say_that_it_is_missing():
    code = "import sys; sys.modules['torch'] = None; import rnnfast; import rnnfast.torch"
    done = run_python(code, PACKAGE.parent)
    assert "ImportError: rnnfast.torch is for programs of PyTorch, which cannot be" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_imports_only_what_it_needs(command):
    code = (
        "import sys\n"
        "from rnnfast.cli import main\n"
        "try:\n"
        f"    main([{command!r}, '--help'])\n"
        "finally:\n"
        "    print(*sys.modules, file=sys.stderr)"
    )
    done = run_python(code, PACKAGE.parent)
    assert done.stdout.startswith(f"usage: rnnfast {command}")
    loaded = set(done.stderr.split())
    assert f"rnnfast.cli.{command}" in loaded
    own = {  # what one command needs, and no other
        "rnnfast.bench": "bench",
        "rnnfast.selfcheck": "selfcheck",
        "rnnfast.systems.examples": "example",
        "rnnfast.systems.reproduce": "reproduce",
        "rnnfast.cli.train": "train",
    }
    assert {name for name in own if name in loaded} == {n for n, c in own.items() if c == command}


def test_copy_without_compiled_modules_says_how_to_build(tmp_path):
    for source in PACKAGE.rglob("*.py"):
        copy = tmp_path / "rnnfast" / source.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
    # -S: an editable install's import hook, set up by site, would find the compiled modules
    path = os.pathsep.join([str(tmp_path), str(Path(np.__file__).parents[1])])
    done = run_python("import rnnfast", tmp_path, "-S", PYTHONPATH=path)
    assert done.returncode != 0
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError: this copy of rnnfast")
    for part in (str(tmp_path), "has no usable compiled modules", "pip install ."):
        assert part in last_line


@pytest.mark.parametrize("name", KERNELS)
def test_type_stubs_match_the_compiled_modules(name):
    """Same public names and, for functions, same arguments, every one of them annotated."""
    stub = ast.parse((PACKAGE / "kernels" / f"{name}.pyi").read_text(encoding="utf-8"))
    module = import_module(f"rnnfast.kernels.{name}")
    described = set()
    for node in stub.body:
        if isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_"):
            described.add(node.target.id)
            annotation = ast.unparse(node.annotation).partition("[")[0]
            assert type(getattr(module, node.target.id)).__name__ == annotation
        if isinstance(node, ast.ClassDef):
            described.add(node.name)
        if isinstance(node, ast.FunctionDef):
            described.add(node.name)
            arguments = [*node.args.args, *node.args.kwonlyargs]
            names = list(inspect.signature(getattr(module, node.name)).parameters)
            assert names == [argument.arg for argument in arguments]
            assert node.returns
            assert all(argument.annotation for argument in arguments)
    public = {n for n in vars(module) if n[0] != "_" and not inspect.ismodule(vars(module)[n])}
    assert described == public


def test_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()
    assert {path.stem for path in (PACKAGE / "kernels").glob("*.pyi")} == set(KERNELS)
