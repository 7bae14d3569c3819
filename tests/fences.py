"""Memory of NumPy's arrays between pages that may not be touched: who reads or writes one byte
beside an array is ended by the system. On Linux and other systems with mmap.

NumPy asks a handler for the memory of every array (NEP 49): so are those of a test, those that
kernels return, and their scratch memory alike.
"""

import ctypes
import mmap
import sys

import numpy as np

PAGE = mmap.PAGESIZE
SET_HANDLER = 304  # the place of PyDataMem_SetHandler in the table of NumPy's C functions

MALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
CALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
REALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Handler(ctypes.Structure):
    """PyDataMem_Handler"""

    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", MALLOC),
        ("calloc", CALLOC),
        ("realloc", REALLOC),
        ("free", FREE),
    ]


class Fences:
    """The handler, and the memory that it gives away and takes again.

    Attributes
    ----------
    at_end : bool
        Whether arrays end where such a page begins; else they begin where one ends.
    """

    def __init__(self):
        self.at_end = True
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            *[ctypes.c_int] * 3,
            ctypes.c_long,
        ]
        self._libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._free = {}  # {pages: addresses}
        self._given = {}  # {address of an array: (address of its pages, how many, bytes)}
        functions = (
            MALLOC(lambda _, size: self._take(size)),
            CALLOC(self._take_zeros),
            REALLOC(self._take_more),
            FREE(lambda _, at, size: self._give_back(at)),
        )
        self._handler = Handler(b"fences", 1, None, *functions)

    def build(self):
        """Let all arrays of this thread have such memory from now on."""
        core = sys.modules.get("numpy._core") or sys.modules["numpy.core"]
        pointer_of, capsule_of = (
            ctypes.pythonapi.PyCapsule_GetPointer,
            ctypes.pythonapi.PyCapsule_New,
        )
        pointer_of.restype, pointer_of.argtypes = (
            ctypes.c_void_p,
            [ctypes.py_object, ctypes.c_char_p],
        )
        capsule_of.restype = ctypes.py_object
        capsule_of.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        table = pointer_of(core._multiarray_umath._ARRAY_API, None)
        set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(
            ctypes.c_void_p.from_address(table + SET_HANDLER * ctypes.sizeof(ctypes.c_void_p)).value
        )
        set_handler(capsule_of(ctypes.addressof(self._handler), b"mem_handler", None))
        array = np.empty(3)
        assert array.ctypes.data in self._given

    def _take(self, size):
        pages = 1 << max(0, (size - 1) // PAGE).bit_length()
        if self._free.get(pages):
            at = self._free[pages].pop()
        else:
            at = self._libc.mmap(
                None,
                (pages + 2) * PAGE,
                mmap.PROT_READ | mmap.PROT_WRITE,
                mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                -1,
                0,
            )
            if at in (None, ctypes.c_void_p(-1).value):
                return None
            for fence in (at, at + (pages + 1) * PAGE):
                self._libc.mprotect(fence, PAGE, 0)
        array = at + PAGE + (pages * PAGE - size if self.at_end else 0)
        self._given[array] = at, pages, size
        return array

    def _take_zeros(self, _, count, size):
        at = self._take(count * size)
        if at is not None:
            ctypes.memset(at, 0, count * size)
        return at

    def _take_more(self, _, before, size):
        at = self._take(size)
        if at is not None and before:
            ctypes.memmove(at, before, min(size, self._given[before][2]))
            self._give_back(before)
        return at

    def _give_back(self, array):
        if array:
            at, pages, _ = self._given.pop(array)
            self._free.setdefault(pages, []).append(at)
