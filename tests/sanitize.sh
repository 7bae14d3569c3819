#!/bin/sh
# Run the tests of the kernels under AddressSanitizer: in a copy of the sources, built for it.
#   tests/sanitize.sh [pytest arguments]       (needs GCC; PYTHON is the interpreter to use)
set -eu
python=${PYTHON:-python}
here=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$here/setup.py" "$here/pyproject.toml" "$here/README.md" "$here/rnnfast" "$here/tests" "$copy"
find "$copy" -name '*.so' -delete
cd "$copy"
CFLAGS="-fsanitize=address -fno-omit-frame-pointer -g -O1" LDFLAGS="-fsanitize=address" \
    "$python" setup.py -q build_ext --inplace
# Python does not free everything; a NumPy array is one allocation, whose ends are guarded
export ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc LD_PRELOAD="$(gcc -print-file-name=libasan.so)"
for level in baseline avx2 avx512; do
    RNNFAST_CPU=$level PYTHONPATH="$copy" "$python" -c "import rnnfast" 2>/dev/null || continue
    echo "== $level"
    RNNFAST_CPU=$level PYTHONPATH="$copy" "$python" -m pytest -q -p no:cacheprovider \
        tests/test_engine.py "$@"
done
