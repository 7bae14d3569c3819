"""The faults that tests/mutants.py makes. Whether tests find them takes hours: it is for itself."""

import ast
from itertools import islice

import mutants
import pytest

PYTHON = '''"""A text with 1 < 2."""
LIMIT = 100


def total(xs: list[int], *, most: int = 0) -> int:
    """The sum, and not more."""
    count = 0
    count = len(xs)
    if not xs or most < 0 and count:
        raise ValueError("1 + 1")
    for x in xs:
        most += x
    print("a", 1)
    return max(most + 1, count) if xs[0, count] else -most
'''
PYTHON_FAULTS = {
    *{
        (5, "0", "1"),
        (7, "0", "1"),
        (7, "count = 0", "pass"),
        (8, "count = len(xs)", "pass"),
        (9, "not xs", "xs"),
    },
    *{(9, "or", "and"), (9, "and", "or"), (9, "<", "<="), (9, "0", "1")},
    *{(10, 'raise ValueError("1 + 1")', "pass"), (12, "most += x", "pass"), (12, "+=", "-=")},
    *{
        (14, "max", "min"),
    },
    *{(14, "+", "-"), (14, "1", "0"), (14, "1", "2"), (14, "0", "1"), (14, "0, count", "count, 0")},
    *{(14, "-most", "most")},
    (14, "max(most + 1, count) if xs[0, count] else -most", "max(most + 1, count)"),
    (14, "max(most + 1, count) if xs[0, count] else -most", "-most"),
}
CYTHON = '''"""With 1 < 2."""
from libc.math cimport sqrt

cdef enum:
    FAST = 64

cdef int first(const int* a, int n, int k) noexcept nogil:
    """a[0] + 1"""
    cdef int t = 1  # 1 + 1
    while t < n and not a[t]:
        t += 1
        visit(a, n)
    barrier(2)
    return added(t, k)


cdef Py_ssize_t _most_rows(
    int n,
) noexcept:
    return max(n, 1) + 1
'''
CYTHON_FAULTS = {
    *{(9, "1", "0"), (9, "1", "2"), (9, "t", "n"), (10, "<", "<="), (10, "and", "or")},
    *{(10, "t", "n"), (10, "n", "k"), (10, "not ", ""), (11, "t", "n"), (11, "+=", "-=")},
    *{(11, "1", "0"), (11, "1", "2"), (11, "t += 1", "pass"), (12, "n", "k")},
    *{(12, "visit(a, n)", "pass"), (12, "a, n", "n, a"), (14, "t", "n"), (14, "k", "n")},
    *{(14, "t, k", "k, t"), (14, "added(t, k)", "t")},
}
C = """/* 1 < 2 */
#include "simd.h"
static inline void FN(gate)(ptrdiff_t n, const real *restrict f,
                            real *restrict i)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        i[j] = f[j] * 2 - i[j]; // 3 + 3
        f[j] = !i[j] && j != 1 ? 0 : f[j];
        i[j] = f[j + n] > i[j] ? f[j + n] : i[j];
        f[j] = 2 > n ? 2 - n : 0;
    }
    return n;
}
"""
C_FAULTS = {
    *{(6, "0", "1"), (6, "<", "<="), (6, "n", "k"), (7, "i", "f"), (7, "f", "i"), (7, "*", "/")},
    *{(7, "2", "1"), (7, "2", "3"), (7, "-", "+"), (7, "i[j] = f[j] * 2 - i[j];", ";")},
    *{(8, "f", "i"), (8, "i", "f"), (8, "!", ""), (8, "&&", "||"), (8, "!=", "==")},
    *{(8, "1", "0"), (8, "1", "2"), (8, "0", "1"), (8, "? 0 : f[j]", "? f[j] : 0")},
    *{(8, "f[j] = !i[j] && j != 1 ? 0 : f[j];", ";"), (12, "n", "k"), (12, "n", "0")},
    *{(9, "i", "f"), (9, "f", "i"), (9, "n", "k"), (9, "+", "-"), (10, "f", "i"), (10, "n", "k")},
    *{(10, "2", "1"), (10, "2", "3"), (10, "-", "+"), (10, "0", "1")},
    *{
        (9, "i[j] = f[j + n] > i[j] ? f[j + n] : i[j];", ";"),
        (10, "f[j] = 2 > n ? 2 - n : 0;", ";"),
    },
}


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("a.py", PYTHON, PYTHON_FAULTS),
        ("a.pyx", CYTHON, CYTHON_FAULTS),
        ("a.h", C, C_FAULTS),
    ],
)
def test_faults(path, source, expected):
    made = mutants.faults_of(path, source)
    assert {(fault.line, fault.before, fault.after) for fault in made} == expected
    for fault in made:
        before, after = source.splitlines(), fault.applied(source).splitlines()
        changed = [k for k, line in enumerate(before, 1) if after[k - 1] != line]
        assert len(after) == len(before)
        assert changed == [fault.line]
        if path.endswith(".py"):
            ast.parse(fault.applied(source))


def test_every_part_has_faults_of_every_kind_in_an_order_that_is_repeated():
    kinds = {"comparison", "arithmetic", "constant", "logic", "negation", "branch", "swapped"}
    kinds |= {"wrong of two", "unchanged", "dropped"}
    first = list(islice(mutants.chosen(mutants.PARTS, 1), 400))
    assert first == list(islice(mutants.chosen(mutants.PARTS, 1), 400))
    assert first != list(islice(mutants.chosen(mutants.PARTS, 2), 400))
    assert len(set(first)) == 400
    for k in range(4):
        assert {fault.kind for fault in first[k::4]} == kinds
    for fault in first:
        files = mutants.near(fault.path)
        assert files
        assert all((mutants.ROOT / file).is_file() for file in files)
