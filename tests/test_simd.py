"""The C below the kernels: what an instruction set may choose, and what the list of cells may."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rnnfast.cells import KERNEL_CELLS, Cell
from rnnfast.kernels import engine

SIMD = Path(__file__).parents[1] / "rnnfast" / "simd"
COMPILER = shutil.which("gcc") or shutil.which("clang")

needs_compiler = pytest.mark.skipif(
    COMPILER is None or not SIMD.is_dir(), reason="there is no C compiler, or no source"
)

# Every tile of the level, with B packed and where it stands, and the product by columns, beside
# plain sums; those that round B as they read it, too. All numbers are whole and small: any order
# of a sum gives the same, and bf16 has them all.
PROGRAM = """
#define LEVEL simd_tested
#define LEVEL_NAME "tested"
#include "level.h"
#include <stdio.h>
const char simd_zeros[SIMD_VECTORS * 64];

enum { K = 35, L = VECTOR_BYTES / sizeof(float), W = 4 * L };
static float A[13 * K], B[4 * K * W], init[13 * 4 * W], C[13 * 4 * W];

/* Whether C is not right for some rows and columns, and 0 elsewhere; how far apart rows, panels,
 * vectors and lanes of B are. */
static int wrong(int rows, int n, int row, int panel, int vector, int lane)
{
    for (int r = 0; r < 13; r++)
        for (int j = 0; j < 4 * W; j++) {
            float sum = r < rows && j < n ? init[r * 4 * W + j] : 0;
            for (int k = 0; k < K && r < rows && j < n; k++)
                sum += A[r * K + k]
                    * B[k * row + j / W * panel + j % W / L * vector + j % L * lane];
            if (C[r * 4 * W + j] != sum)
                return printf("%d rows, %d columns: wrong at %d, %d\\n", rows, n, r, j);
        }
    memset(C, 0, sizeof C);
    return 0;
}

int main(void)
{
    for (int i = 0; i < 13 * K; i++) A[i] = i % 5 - 2;
    for (int i = 0; i < 4 * K * W; i++) B[i] = i % 7 - 3;
    for (int i = 0; i < 13 * 4 * W; i++) init[i] = i % 3;
    const simd_walk a = {A, K, K, 1, K, 0};
    const simd_panels from = {init, 4 * W, W, L}, to = {C, 4 * W, W, L};
    /* packed; rows of one gate; rows of four */
    const simd_panels all[3] = {{B, W, K * W, L}, {B, 4 * W, W, L}, {B, 4 * W, L, W}};
    int tested = 0;
    for (int rounds = 0; rounds < 2; rounds++) {
        const simd_operands *exact = &simd_tested_f32.products;
        const simd_operands *rounding = &simd_tested_standing;
        for (int rows = 1; rows <= TILE_ROWS; rows++)
            for (int n = 1; n <= exact->panels_at_once(rows) * W; n++)
                for (int i = 0; i < 3; i++) {
                    const simd_panels b = all[i];
                    (rounds ? rounding->tile : exact->tile)(rows, n, K, &a, &b, &from, NULL, &to);
                    if (wrong(rows, n, b.row, b.panel, b.vector, 1))
                        return 1;
                    tested++;
                }
        for (int rows = 1; rows <= 13; rows++)
            for (int n = 1; n <= 2 * W; n++) {
                (rounds ? rounding->dots : exact->dots)(rows, n, K, &a, B, K, &from, &to);
                if (wrong(rows, n, 1, W * K, L * K, K))
                    return 1;
            }
    }
    printf("%d tiles\\n", tested);
    return 0;
}
"""


def compiled(tmp_path, **widths):
    source, program = tmp_path / "tile.c", tmp_path / "tile"
    source.write_text(PROGRAM)
    defines = [f"-D{name}={value}" for name, value in widths.items()]
    command = [COMPILER, "-O0", "-w", f"-I{SIMD}", *defines, str(source), "-o", str(program), "-lm"]
    return subprocess.run(command, check=False, capture_output=True, text=True), program


@needs_compiler
@pytest.mark.parametrize("rows", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("width", [16, 32, 64])
def test_tiles_of_every_height_and_width(tmp_path, rows, width):
    done, program = compiled(tmp_path, TILE_ROWS=rows, VECTOR_BYTES=width)
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([program], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout or ran.returncode
    assert int(ran.stdout.split()[0]) >= 6 * rows * width


@needs_compiler
@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"TILE_ROWS": 1, "VECTOR_BYTES": 16}, "TILE_ROWS must be 2 to SIMD_MOST_ROWS"),
        ({"TILE_ROWS": 7, "VECTOR_BYTES": 64}, "TILE_ROWS must be 2 to SIMD_MOST_ROWS"),
        ({"TILE_ROWS": 6, "VECTOR_BYTES": 128}, "VECTOR_BYTES must be 16, 32 or 64"),
    ],
)
def test_other_widths_do_not_compile(tmp_path, widths, message):
    done, _ = compiled(tmp_path, **widths)
    assert done.returncode != 0
    assert message in done.stderr


@needs_compiler
def test_another_number_format_does_not_compile(tmp_path):
    source = tmp_path / "format.c"
    source.write_text('#include "simd.h"\nint of(long double *x) { return SIMD_FORMAT_OF(x); }')
    command = [COMPILER, "-c", f"-I{SIMD}", str(source), "-o", str(tmp_path / "format.o")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "_Generic" in done.stderr


def test_every_function_of_the_table_is_declared_once():
    declared = re.findall(r"\bF\(\w+, (\w+),", (SIMD / "simd.h").read_text(encoding="utf-8"))
    pxd = (SIMD.parent / "kernels" / "engine.pxd").read_text(encoding="utf-8")
    table = pxd.partition("ctypedef struct Operands")[2].partition("ctypedef struct Level")[0]
    assert sorted(declared) == sorted(re.findall(r"\(\*(\w+)\)\(", table))


def test_cells_are_those_that_are_compiled():
    compiled = [(name, cell.G) for name, cell in KERNEL_CELLS.items()]
    places = {name: k for k, name in enumerate(KERNEL_CELLS)}
    assert engine.numbered(KERNEL_CELLS, compiled) == places
    with pytest.raises(
        ImportError, match=r"expected those that are compiled.*\(rnn 1; .*got rnn 1, "
    ):
        engine.numbered(KERNEL_CELLS, [("rnn", 1)])
    with pytest.raises(ImportError, match=r", other 3; .*rnnfast/cells\.py"):
        engine.numbered(KERNEL_CELLS, [*compiled, ("other", 3)])
    four = Cell("gru", gates=("z", "r", "h", "o"), states=("h",))
    with pytest.raises(ImportError, match=r"as many gates \(gru 3; .*got gru 4"):
        engine.numbered({"gru": four}, [("gru", 3)])
