"""Small faults in the sources, one at a time, and whether a test finds each.

    python tests/mutants.py --count 200 --seed 1            # some hours on one core
    python tests/mutants.py --count 200 --seed 1 --near 12  # tests that concern it alone
    python tests/mutants.py --count 20 --files rnnfast/simd/cells.h --list

A fault is made in a copy of the repository, what depends on it is compiled anew, and the tests run,
those that concern the file first. What does not compile, or compiles to the same code, is no fault,
and another one takes its place. The exit code is 1 where tests find fewer than 95 % of them.

Where nothing can be seen to change, no fault is made: not in texts, annotations, declarations,
constants that only make things fast, and what decides how work is dealt out. The script is our own
since those that there are, for Python, know neither Cython nor C.
"""

import argparse
import ast
import builtins
import io
import os
import platform
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
GOAL = 0.95

PARTS = {
    "cells": [
        "rnnfast/simd/cells.h",
        *(f"rnnfast/kernels/{name}_steps.pyx" for name in ("forward", "backward")),
        "rnnfast/kernels/sums.pyx",
        "rnnfast/kernels/generation.pyx",
    ],
    "lengths": [
        "rnnfast/kernels/block.pxd",
        "rnnfast/kernels/recurrent.pyx",
        "rnnfast/layers/*.py",
        "rnnfast/text/lanes.py",
    ],
    "optimizers": [
        "rnnfast/simd/arrays.h",
        "rnnfast/kernels/optimizer_steps.pyx",
        "rnnfast/training/optimizers.py",
        "rnnfast/training/schedules.py",
    ],
    "checkpoint": [
        "rnnfast/_zip.py",
        "rnnfast/archive.py",
        "rnnfast/models/saving.py",
        "rnnfast/training/checkpoint.py",
        "rnnfast/training/fields.py",
        "rnnfast/training/folder.py",
        "rnnfast/training/history.py",
        "rnnfast/training/run*.py",
        "rnnfast/training/saved_run.py",
        "rnnfast/training/trainer.py",
    ],
}
"""Of each as many mutants."""

NEAR = [
    ("*/cells.h", "frozen gradients sequences parity_drawn extremes parity"),
    (
        "*/arrays.h",
        "losses gradients sums dropout attention optimizers parity_drawn callers_memory sparse "
        "extremes same_bits parity",
    ),
    ("*/optimizer_steps.pyx", "optimizers sparse trainer same_bits guard_pages"),
    (
        "*/*_steps.pyx",
        "frozen gradients sequences parity_drawn regularisation callers_memory sums same_bits "
        "guard_pages",
    ),
    ("*/sums.pyx", "sums gradients parity_drawn sparse same_bits guard_pages"),
    ("*/generation.pyx", "sampling language_models scoring guard_pages"),
    (
        "*/block.pxd",
        "frozen gradients sequences parity_drawn regularisation callers_memory sparse guard_pages",
    ),
    (
        "*/kernels/recurrent.pyx",
        "frozen gradients callers_memory sequences parity_drawn regularisation call_order "
        "recurrent_layers sums stack guard_pages failed_allocations",
    ),
    ("*/layers/attention.py", "attention seq2seq call_order parity_drawn"),
    ("*/layers/affine.py", "layers bad_inputs call_order losses parity_drawn"),
    ("*/layers/embedding.py", "layers sparse bad_inputs call_order parity_drawn"),
    ("*/layers/dropout.py", "dropout regularisation"),
    ("*/layers/regularisation.py", "regularisation dropout recurrent_layers bad_inputs"),
    ("*/layers/stack.py", "stack regularisation recurrent_layers"),
    ("*/layers/initial.py", "stack layers recurrent_layers bad_inputs"),
    (
        "*/layers/*.py",
        "recurrent_layers call_order bad_inputs layers stack copies regularisation sequences",
    ),
    ("*/text/*.py", "text trainer"),
    ("*/optimizers.py", "optimizers sparse twins trainer_options bad_inputs"),
    ("*/schedules.py", "schedules trainer_options"),
    ("*/saving.py", "saving old_files hostile exchange"),
    ("*/_zip.py", "checkpoint saving damage old_files hostile"),
    ("*/archive.py", "checkpoint saving damage old_files hostile interruptions"),
    ("*/fields.py", "trainer runs checkpoint old_files hostile"),
    ("*/training/checkpoint.py", "trainer checkpoint trainer_options stack old_files runs hostile"),
    ("*/folder.py", "runs interruptions doctor"),
    ("*/history.py", "trainer runs old_files hostile"),
    ("*/saved_run.py", "runs old_files doctor checkpoint hostile"),
    ("*/run*.py", "runs old_files trainer_options cli doctor interruptions"),
    ("*/trainer.py", "trainer trainer_options schedules checkpoint batch_part runs"),
]
"""Which tests concern a file: those of the first pattern that it has; quick ones come first."""

PAIRS = [
    *("f i", "g o", "z r", "dz dr", "dh dc", "h c", "h_before c_before", "before after"),
    *("x y", "m v", "of_m of_v", "low high", "of_v of_dW", "first second", "begin end"),
    *("Wx Wh", "dWx dWh", "b bh", "made left", "entering h_in", "R U", "D H", "x_rows h_rows"),
    *("panels outputs", "inputs units", "N T", "h_row x_row", "rows columns", "K M", "row column"),
    *("n t", "k n", "before origin", "rests sums", "min max", "any all", "beta1 beta2"),
    *("inputs targets", "valid test", "params grads", "epoch step", "best last", "steps epochs"),
    *("forward backward", "h0 c0", "ahead back", "packed size", "missing unknown", "dhs dxs"),
    *("floor ceil", "dh dxs", "least most", "names arrays", "prefix suffix", "hs last", "T S"),
]
OTHER = {a: b for pair in PAIRS for a, b in (pair.split(), pair.split()[::-1])}
"""One of two names instead of the other."""

TUNING = re.compile(  # lines that decide how fast something is
    r"\b(at_once|alone|threads|by_rows|flops|cost|block|chunk|few|uses_table|x_stays|of_cost|serial"
    r"|barrier|_deal_out|_side_by_side|_most_rows|share_of_steps|_give_back|reserve|BLOCK|_SCRATCH|_SPARE"
    r"|memory_of|A_BLOCK|panels_at_once|restrict|_Pragma|UNROLL|EXCHANGES|rows_between)\b"
)
TUNES = re.compile(r"^cdef .*\b(_deal_out|_side_by_side|_most_rows)\(")  # and all of a function
COMPARE = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
COMPARE |= {"in": "not in", "not in": "in", "is": "is not", "is not": "is"}
ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "*", "**": "*"}
ARITHMETIC |= {"<<": ">>", ">>": "<<", "&": "|", "|": "&", "^": "&"}
AUGMENTED = {f"{op}=": f"{ARITHMETIC[op]}=" for op in ["+", "-", "*", "/"]}
EITHER_WAY = ("min", "max")
"""What does not ask for the order of its arguments."""
SUM = r"-?[\w.\[\]]+(?: [-+] [\w.\[\]]+)*"
EXTREME = re.compile(  # the greater of two, or what one has more: of equal ones it is either
    rf"(?:(?<=[=,] )|(?<=\())(?P<a>{SUM}) [<>]=? (?P<b>{SUM})"
    r" \? (?:(?P=a) : (?P=b)|(?P=b) : (?P=a)|(?P=a) - (?P=b) : 0)(?![\w.\[])"
)
LOGIC = {"and": "or", "or": "and", "&&": "||", "||": "&&"}


Placed: TypeAlias = ast.expr | ast.stmt


@dataclass(frozen=True, order=True)
class Mutant:
    """`before`, which stands at a place of a file (lines from 1 on), becomes `after`."""

    path: str
    line: int
    column: int
    before: str
    after: str
    kind: str

    def applied(self, source: str) -> str:
        lines = source.splitlines(keepends=True)
        line = lines[self.line - 1]
        end = self.column + len(self.before)
        assert line[self.column : end] == self.before, self
        lines[self.line - 1] = line[: self.column] + self.after + line[end:]
        return "".join(lines)

    def shown(self, source: str) -> str:
        """The line before and after."""
        before, after = (
            text.splitlines()[self.line - 1].strip() for text in (source, self.applied(source))
        )
        return f"{self.path}:{self.line} [{self.kind}] {before}  ->  {after}"


def other_numbers(text: str) -> list[str]:
    """What a whole number is taken for."""
    return {"0": ["1"], "1": ["0", "2"]}.get(text, [str(int(text) + 1), str(int(text) - 1)])


# ---------------------------------------------------------------- Python


class PythonFaults(ast.NodeVisitor):
    """Faults by the syntax tree; places are those of nodes and of tokens between them."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.lines, self.made = path, source.splitlines(), set[Mutant]()
        self.tokens = [
            (token.string, token.start, token.end)
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type in (tokenize.OP, tokenize.NAME)
        ]
        self.names = {token[0] for token in self.tokens}
        self.stored: list[list[str]] = []
        self.visit(ast.parse(source))

    def add(self, kind: str, line: int, column: int, before: str, after: str) -> None:
        """Columns as of `ast`: in bytes."""
        column = len(self.lines[line - 1].encode()[:column].decode())
        if before != after:
            self.made.add(Mutant(self.path, line, column, before, after, kind))

    def text(self, node: Placed) -> str:
        """What a node is written as, or nothing where it has several lines."""
        if node.lineno != node.end_lineno:
            return ""
        line = self.lines[node.lineno - 1].encode()
        return line[node.col_offset : node.end_col_offset].decode()

    def replace(self, kind: str, node: Placed, after: str) -> None:
        before = self.text(node)
        if before and after:
            self.add(kind, node.lineno, node.col_offset, before, after)

    def operator(self, kind: str, left: Placed, right: Placed, others: dict[str, str]) -> None:
        """The operator between two nodes becomes another."""
        start, end = (left.end_lineno, left.end_col_offset), (right.lineno, right.col_offset)
        between = [t for t in self.tokens if start <= t[1] and t[2] <= end and t[0] not in "()"]
        if not between or len({t[1][0] for t in between}) > 1:
            return
        before = " ".join(t[0] for t in between)
        if before in others:
            line, column = between[0][1]
            self.made.add(Mutant(self.path, line, column, before, others[before], kind))

    def visit_body(self, node: ast.Module | ast.ClassDef | ast.FunctionDef) -> None:
        """Statements, without the docstring and what is written for people."""
        for statement in node.body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue
            self.visit(statement)

    def visit_Module(self, node: ast.Module) -> None:
        self.visit_body(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.visit_body(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in ("__repr__", "__str__") or node.name.startswith("_say"):
            return
        names = [arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)]
        names += [
            name.id
            for name in ast.walk(node)
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        ]
        self.stored.append(names)
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        self.visit_body(node)
        self.stored.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if not self.stored and all(name.strip("_").isupper() for name in names) and names:
            if not isinstance(node.value, ast.Constant | ast.BinOp):  # numbers are for speed
                self.visit(node.value)
            return
        # what is not there at all any more, everything would find
        if self.stored and all(self.stored[-1].count(name) > 1 for name in names):
            self.replace("dropped", node, "pass")
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and self.stored:
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.replace("dropped", node, "pass")
        self.operator("arithmetic", node.target, node.value, AUGMENTED)
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and not self.text(node).startswith("print("):
            self.replace("dropped", node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.replace("dropped", node, "pass")

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_Return(self, node: ast.Return) -> None:
        value = node.value
        if isinstance(value, ast.Call):
            inner = value.args[0] if value.args else getattr(value.func, "value", None)
            if inner is not None and not isinstance(inner, ast.Starred | ast.Constant):
                self.replace("unchanged", value, self.text(inner))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, right in pairwise([node.left, *node.comparators]):
            self.operator("comparison", left, right, COMPARE)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not any(isinstance(side, ast.JoinedStr) for side in (node.left, node.right)):
            self.operator("arithmetic", node.left, node.right, ARITHMETIC)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in pairwise(node.values):
            self.operator("logic", left, right, LOGIC)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self.replace("negation", node, self.text(node.operand))
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.replace("branch", node, self.text(node.body))
        self.replace("branch", node, self.text(node.orelse))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.replace("constant", node, str(not node.value))
        elif isinstance(node.value, int) and self.text(node).isdigit():
            for after in other_numbers(self.text(node)):
                self.replace("constant", node, after)

    def visit_Name(self, node: ast.Name) -> None:
        if (after := OTHER.get(node.id)) in self.names or after in dir(builtins):
            self.replace("wrong of two", node, str(after))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        text, after = self.text(node), OTHER.get(node.attr)
        if text and after in self.names:
            self.replace("wrong of two", node, text.removesuffix(node.attr) + after)
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        name = self.text(node.func)
        if name in ("print", "cast", "isinstance", "TypeVar") or name.startswith("warnings."):
            return
        if name not in EITHER_WAY:
            self.swapped(node.args)
        self.visit(node.func)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg not in ("strict", "stacklevel", "hint", "encoding"):
                self.visit(keyword.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.slice, ast.Tuple):
            self.swapped(node.slice.elts)
        self.generic_visit(node)

    def swapped(self, nodes: list[ast.expr]) -> None:
        for a, b in pairwise(nodes):
            if self.text(a) and self.text(b) and a.lineno == b.lineno:
                line = self.lines[a.lineno - 1].encode()
                before = line[a.col_offset : b.end_col_offset].decode()
                middle = line[a.end_col_offset : b.col_offset].decode()
                self.add(
                    "swapped",
                    *(a.lineno, a.col_offset, before),
                    self.text(b) + middle + self.text(a),
                )

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass


# ---------------------------------------------------------------- Cython and C

CYTHON_NO_CODE = re.compile(
    r'"""(?:.|\n)*?"""|\'\'\'(?:.|\n)*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*'
)
C_NO_CODE = re.compile(
    r'/\*(?:.|\n)*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"'
    r"|^#(?!define)[^\n]*|^#define \w+(?:\([^)\n]*\))?|^ *(?:typedef|enum)\b[^\n]*"
    r"|\bstatic\b[^{]*\{",
    re.M,
)
SIMPLE = r"[&*]?[A-Za-z_]\w*(?:(?:\.|->)\w+|\[\w+\])*"
STATEMENT = {
    "pyx": re.compile(
        r"^ +(?!(?:cdef|if|elif|else|for|while|return|with|try|raise|except|finally|pass|break"
        r"|continue|def|class|from|import|ctypedef)\b)(?P<code>\S.*?(?:=|\().*?) *$"
    ),
    "c": re.compile(
        r"^ +(?!(?:if|else|for|while|return|const|real|ptrdiff_t|double|float|uint64_t|int|vec|do"
        r"|UNROLL|LANE_LOOP)\b)(?P<code>[^\s;][^;{}]*(?:=|\()[^;{}]*;) *\\?$"
    ),
}
RULES = [
    ("comparison", re.compile(r"(?<= )(?:<=|>=|==|!=|<|>)(?= )"), COMPARE.__getitem__),
    ("arithmetic", re.compile(r"(?<= )(?:<<|>>|//|[-+*/%&|^])(?= )"), ARITHMETIC.__getitem__),
    ("arithmetic", re.compile(r"(?<= )[-+*/]=(?= )"), AUGMENTED.__getitem__),
    ("logic", re.compile(r"(?<= )(?:and|or|&&|\|\|)(?= )"), LOGIC.__getitem__),
    ("negation", re.compile(r"\bnot (?!in\b)|!(?=[\w(])|(?<=[(,=?:] )-(?=\w)"), lambda _: ""),
    ("constant", re.compile(r"(?<![\w.])\d+(?![\w.])"), other_numbers),
    ("constant", re.compile(r"\b(?:True|False)\b"), lambda text: str(text == "False")),
    ("wrong of two", re.compile(r"\b[A-Za-z_]\w*\b(?!\()"), lambda text: OTHER.get(text, [])),
]
SWAP = re.compile(rf"(?<=[(,\[])( ?)({SIMPLE}), ({SIMPLE})(?=[,)\]])")
BRANCH = re.compile(r" if (?P<test>[^:]+?) else ")
TERNARY = re.compile(r"\? ([-\w.\[\]]+) : ([-\w.\[\]]+)")
RETURN = {
    "pyx": re.compile(rf"\breturn (?P<all>[\w.]+\((?P<one>{SIMPLE})[,)].*)$"),
    "c": re.compile(r"\breturn (?P<all>[^;]+);"),
}


def blanked(source: str, pattern: re.Pattern[str]) -> str:
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), source)


def only_code(path: str, source: str) -> list[str]:
    """The lines of a file, with blanks for what is not to be changed."""
    if path.endswith(".h"):
        lines = blanked(source, C_NO_CODE).splitlines()
    else:
        lines = without_tuning(blanked(source, CYTHON_NO_CODE).splitlines())
        lines = without_declarations(lines)
    return ["" if TUNING.search(line) else line for line in lines]


def without_tuning(lines: list[str]) -> list[str]:
    """The same without the functions that decide how work is dealt out."""
    kept, within = [], False
    for line in lines:
        if re.match(r"\w", line):
            within = bool(TUNES.match(line))
        kept.append("" if within else line)
    return kept


def without_declarations(lines: list[str]) -> list[str]:
    """The same without imports, signatures, structs and enums."""
    kept, k = [], 0
    while k < len(lines):
        begin, depth = k, 0
        while True:  # a logical line
            depth += sum(map(lines[k].count, "([{")) - sum(map(lines[k].count, ")]}"))
            k += 1
            if depth <= 0 or k == len(lines):
                break
        whole = " ".join(lines[begin:k]).strip()
        if re.match(r"(?:from|import|cimport|cdef|cpdef|ctypedef|def|class|@)\b", whole) and (
            "=" not in whole or whole.endswith(":")
        ):
            if re.match(r"cdef enum|ctypedef struct|cdef extern", whole):
                while k < len(lines) and (lines[k].startswith("  ") or not lines[k].strip()):
                    k += 1
            kept += [""] * (k - begin)
        else:
            kept += lines[begin:k]
    return kept


def faults_by_lines(path: str, source: str) -> Iterator[Mutant]:
    """Faults of Cython and C, by regular expressions."""
    language = "c" if path.endswith(".h") else "pyx"
    depth, before_this = 0, ";"
    lines = source.splitlines()

    number = 0

    def mutant(kind: str, begin: int, end: int, after: str) -> Mutant:
        return Mutant(path, number, begin, lines[number - 1][begin:end], after, kind)

    for code in only_code(path, source):
        number += 1
        extremes = [range(*match.span()) for match in EXTREME.finditer(code)]
        for kind, pattern, change in RULES:
            for match in pattern.finditer(code):
                if kind == "comparison" and any(match.start() in span for span in extremes):
                    continue
                after = change(match[0])
                for text in [after] if isinstance(after, str) else after:
                    yield mutant(kind, *match.span(), text)
        for match in SWAP.finditer(code):
            called = re.search(r"(\w+)\($", code[: match.start()])
            if match[2] != match[3] and not (called and called[1] in EITHER_WAY):
                swapped = f"{match[1]}{match[3]}, {match[2]}"
                yield mutant("swapped", *match.span(), swapped)
        for match in BRANCH.finditer(code):
            yield mutant("branch", *match.span("test"), f"not ({match['test']})")
        for match in TERNARY.finditer(code):
            yield mutant("branch", *match.span(), f"? {match[2]} : {match[1]}")
        for match in RETURN[language].finditer(code):
            after = match["one"] if language == "pyx" else "0"
            if after != match["all"]:
                yield mutant("unchanged", *match.span("all"), after)
        whole = STATEMENT[language].match(code)
        opened = sum(map(code.count, "([{")) - sum(map(code.count, ")]}"))
        if whole and not depth and not opened and before_this in ";{}):\n":
            yield mutant("dropped", *whole.span("code"), "pass" if language == "pyx" else ";")
        if language == "c":
            stripped = code.rstrip(" \\")
            before_this = stripped[-1:] or before_this
        else:
            depth += opened


@cache
def faults_of(path: str, source: str) -> tuple[Mutant, ...]:
    """All of a file, in order."""
    python = path.endswith(".py")
    made = PythonFaults(path, source).made if python else set(faults_by_lines(path, source))
    return tuple(sorted(made))


def files_of(patterns: Iterable[str]) -> list[str]:
    paths = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def chosen(parts: dict[str, list[str]], seed: int) -> Iterator[Mutant]:
    """All mutants in an order that follows from the seed: of each part in turn."""
    orders = [in_order(patterns, f"{seed} {name}") for name, patterns in parts.items()]
    while orders:
        for order in list(orders):
            if (mutant := next(order, None)) is None:
                orders.remove(order)
            else:
                yield mutant


def in_order(patterns: list[str], seed: str) -> Iterator[Mutant]:
    """Those of some files, each of a kind that is drawn first: some kinds have few places."""
    chance = random.Random(seed)
    by_kind: dict[str, list[Mutant]] = {}
    for path in files_of(patterns):
        for mutant in faults_of(path, (ROOT / path).read_text()):
            by_kind.setdefault(mutant.kind, []).append(mutant)
    while by_kind:
        kind = chance.choice(sorted(by_kind))
        yield by_kind[kind].pop(chance.randrange(len(by_kind[kind])))
        if not by_kind[kind]:
            del by_kind[kind]


# ---------------------------------------------------------------- building and testing


class NoFault(Exception):
    """What does not compile, or changes nothing."""


class Copy:
    """The repository in another folder, in which things are broken."""

    DIRECTIVES: ClassVar = [
        *("boundscheck=False", "wraparound=False", "initializedcheck=False"),
        *("cdivision=True", "embedsignature=True"),
    ]
    # one instruction set is enough: what is a higher one elsewhere is avx2 here
    HIGHER: ClassVar = ["avx512_bf16", "avx512"]
    X86 = platform.machine().lower() in ("x86_64", "amd64")
    LEVEL = "avx2" if X86 else "baseline"
    FLAGS: ClassVar = {
        "baseline": [],
        **({"avx2": ["-mavx2", "-mfma"]} if X86 else {}),
        "dispatch": ["-DRNNFAST_X86=1", *(f"-Dsimd_{name}=simd_avx2" for name in HIGHER)]
        if X86
        else [],
    }

    def __init__(self, folder: Path) -> None:
        self.root, self.objects = folder / "tree", folder / "objects"
        ignored = shutil.ignore_patterns(".git", "build", "__pycache__", ".*_cache", "*.egg-info")
        shutil.copytree(ROOT, self.root, ignore=ignored, symlinks=True)
        for name in ("objects", "home", "tmp"):
            (folder / name).mkdir()
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RNNFAST_", "PYTEST_"))},
            **{"PYTHONPATH": str(self.root), "HOME": str(folder / "home")},
            **{"TMPDIR": str(folder / "tmp"), "OMP_WAIT_POLICY": "passive"},
        }
        self.tmp = folder / "tmp"
        self.kernels = self.root / "rnnfast/kernels"
        self.suffix = sysconfig.get_config_var("EXT_SUFFIX")
        if not list(self.kernels.glob(f"*{self.suffix}")):
            self.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], 3600)
        self.broken: tuple[Path, str] | None = None
        self.built: list[Path] = []
        self.prepared: set[str] = set()

    def run(self, command: list[str], seconds: float) -> None:
        """NoFault where it fails."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
        if done.returncode:
            raise NoFault(done.stdout[-500:] + done.stderr[-2000:])

    def compiler(self) -> list[str]:
        return [*shlex.split(sysconfig.get_config_var("CC") or "cc"), "-fPIC", "-w", "-g0"]

    def compile(self, path: str) -> dict[str, list[Path]]:
        """Objects of all modules that depend on a file, by module."""
        if path.endswith(".h"):
            return {"engine": [self.object_of("engine"), *map(self.object_of_level, self.FLAGS)]}
        name = Path(path).stem
        names = [name] if path.endswith(".pyx") else []
        for source in sorted(self.kernels.glob("*.pyx")) if not names else []:
            if re.search(rf"^from \.{name} cimport", source.read_text(), re.M):
                names.append(source.stem)
        return {name: [self.object_of(name)] for name in names}

    def object_of(self, name: str) -> Path:
        source, made = self.objects / f"{name}.c", self.objects / f"{name}.o"
        if name == "engine" and made.exists():  # no mutant is made in it
            return made
        cython = [sys.executable, "-m", "cython", "-3", *(f"-X{d}" for d in self.DIRECTIVES)]
        self.run([*cython, f"rnnfast/kernels/{name}.pyx", "-o", str(source)], 400)
        self.run(
            [
                *self.compiler(), "-O0", "-fopenmp", "-DRNNFAST_DEBUG=0", "-Irnnfast/simd",
                f"-I{sysconfig.get_path('include')}", "-c", str(source), "-o", str(made),
            ],
            400,
        )  # fmt: skip
        return made

    def object_of_level(self, level: str) -> Path:
        made = self.objects / f"simd_{level}.o"
        if level != self.LEVEL and made.exists():
            return made
        flags = [*self.FLAGS[level], "-O1", "-fno-math-errno", "-fno-trapping-math"]
        self.run([*self.compiler(), *flags, "-c", f"rnnfast/simd/{level}.c", "-o", str(made)], 400)
        return made

    def prepare(self, path: str) -> None:
        """Objects of what is not broken, to compare with and to link."""
        kept = self.objects / "whole"
        kept.mkdir(exist_ok=True)
        if not path.endswith(".py") and path not in self.prepared:
            self.prepared.add(path)
            for made in (file for files in self.compile(path).values() for file in files):
                shutil.copy(made, kept)

    def breaks(self, mutant: Mutant) -> None:
        self.prepare(mutant.path)
        path = self.root / mutant.path
        source = path.read_text()
        self.broken = path, source
        path.write_text(mutant.applied(source))
        if mutant.path.endswith(".py"):
            compile(path.read_text(), path, "exec")
            self.forget(path)
            return
        modules = self.compile(mutant.path)
        made = [file for files in modules.values() for file in files]
        if all(f.read_bytes() == (self.objects / "whole" / f.name).read_bytes() for f in made):
            raise NoFault("it compiles to the same code")
        self.link(modules)

    def link(self, modules: dict[str, list[Path]]) -> None:
        linker = shlex.split(sysconfig.get_config_var("LDSHARED") or "cc -shared")
        for name, files in modules.items():
            module = self.kernels / f"{name}{self.suffix}"
            if module not in self.built:
                module.rename(module.with_suffix(".whole"))
                self.built.append(module)
            self.run([*linker, "-fopenmp", *map(str, files), "-o", str(module), "-lm"], 400)

    @staticmethod
    def forget(path: Path) -> None:
        """What Python has compiled: a change within a second is none to it."""
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()

    def mend(self) -> None:
        if self.broken is not None:
            path, source = self.broken
            path.write_text(source)
            self.forget(path)
        for module in self.built:
            module.with_suffix(".whole").replace(module)
        self.broken, self.built = None, []
        for left in self.tmp.iterdir():
            shutil.rmtree(left, ignore_errors=True)

    def test(self, files: list[str], patience: float) -> str | None:
        """The first test that fails, or None; one that says nothing for so long hangs."""
        command = [sys.executable, "-X", "faulthandler", "-m", "pytest", "-x", "-v", "--tb=no"]
        command += ["-p", "no:cacheprovider", "-p", "no:benchmark", "-W", "error", *files]
        process = subprocess.Popen(
            command, cwd=self.root, env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        said, heard = b"", time.monotonic()
        while True:
            more = process.stdout.read()
            if more:
                said, heard = said + more, time.monotonic()
            elif process.poll() is not None:
                break
            elif time.monotonic() - heard > patience:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return f"hang in {last_test(said)}"
            else:
                time.sleep(0.05)
        if process.returncode == 0:
            return None
        failed = re.search(rb"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.M)
        if failed:
            return failed[1].decode()
        return f"crash ({process.returncode}) in {last_test(said)}"


def last_test(said: bytes) -> str:
    found = re.findall(rb"^(tests/\S+)", said, re.M)
    return found[-1].decode() if found else "the collection"


def near(path: str) -> list[str]:
    names = next((names for pattern, names in NEAR if Path(path).match(pattern)), "")
    if path.endswith(".py"):
        names += " types"
    return [f"tests/test_{name}.py" for name in names.split()]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="how many mutants")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", nargs="+", help="instead of all: paths or patterns")
    parser.add_argument("--only", nargs="+", type=int, help="of the list, those with these numbers")
    parser.add_argument("--list", action="store_true", help="print them, and make none")
    parser.add_argument("--tests", nargs="+", help="these files of tests and no others")
    parser.add_argument("--near", type=int, help="only so many files of tests that concern it")
    parser.add_argument("--control", action="store_true", help="test the copy without a fault too")
    parser.add_argument("--patience", type=float, default=300, help="seconds until a test hangs")
    options = parser.parse_args(argv)
    parts = PARTS if options.files is None else {"files": options.files}
    mutants = enumerate(chosen(parts, options.seed), 1)
    if options.list:
        for number, mutant in mutants:
            if number > options.count:
                break
            print(number, mutant.shown((ROOT / mutant.path).read_text()))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return tried(Copy(Path(folder)), mutants, options)


def tried(copy: Copy, mutants: Iterator[tuple[int, Mutant]], options: argparse.Namespace) -> int:
    found, none = 0, 0
    survived: list[str] = []
    everything = sorted(f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py"))
    if options.control:
        for path in files_of(pattern for part in PARTS.values() for pattern in part):
            if not path.endswith(".py"):
                copy.link(copy.compile(path))
        failed = copy.test(everything, options.patience)
        copy.mend()
        print(f"without a fault, {failed or 'none'} fails", flush=True)
        if failed:
            return 1
    for number, mutant in mutants:
        if options.only is None and found + len(survived) >= options.count:
            break
        if options.only is not None and number > max(options.only):
            break
        if options.only is not None and number not in options.only:
            continue
        shown = f"{number} {mutant.shown((ROOT / mutant.path).read_text())}"
        start = time.monotonic()
        try:
            copy.breaks(mutant)
            first = options.tests or near(mutant.path)[: options.near]
            failed = copy.test(first, options.patience) if first else None
            if failed is None and options.near is None and not options.tests:
                failed = copy.test(
                    [path for path in everything if path not in first], options.patience
                )
        except (NoFault, SyntaxError) as reason:
            none += 1
            print(f"{shown}\n    no fault: {str(reason).strip().splitlines()[-1:]}", flush=True)
            continue
        finally:
            copy.mend()
        seconds = time.monotonic() - start
        if failed is None:
            survived.append(shown)
        else:
            found += 1
        print(f"{shown}\n    {failed or 'SURVIVED'} ({seconds:.0f} s)", flush=True)
    count = found + len(survived)
    print(f"\n{found} of {count} were found; {none} were none")
    print(*(f"SURVIVED {line}" for line in survived), sep="\n")
    return int(found < GOAL * count)


if __name__ == "__main__":
    sys.exit(main())
