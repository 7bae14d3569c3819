"""The base of the book's models: parameters that are saved and loaded."""

import os
from typing import Any

import numpy as np

from .._files import open_regular
from .._types import Array
from ..archive import damage, load_archive, require_names, require_no_nan, save_archive
from ..errors import InputError
from . import _pickled
from .config import GPU
from .util import to_cpu, to_gpu

__all__ = ["GPU", "BaseModel", "np", "to_cpu", "to_gpu"]

KIND = "parameters"
"""What `archive` calls the files that are written here."""


class BaseModel:
    """A model with the lists `params` and `grads`, which its constructor sets."""

    params: Any
    grads: Any

    def __init__(self) -> None:
        self.params, self.grads = None, None

    def forward(self, *args: Any) -> Any:
        raise NotImplementedError

    def backward(self, *args: Any) -> Any:
        raise NotImplementedError

    def save_params(self, file_name: str | os.PathLike[str] | None = None) -> None:
        """Write all parameters as they are, by default to the name of the class with .pkl.

        The file is no pickle, whatever its name: it is one of plain arrays, as .npz files are.
        """
        arrays = {str(k): np.asarray(W) for k, W in enumerate(self.params)}
        save_archive(self._file(file_name), KIND, arrays, {})

    def load_params(self, file_name: str | os.PathLike[str] | None = None) -> None:
        """Read parameters into those that there are, from a file that `save_params` wrote, or from
        a pickle that the book's own did. No pickle is executed: lists of arrays are read from it,
        and nothing else.

        Raises FileNotFoundError where there is no file, InputError for one that holds something
        else, or arrays of other shapes. Nothing has changed then.
        """
        path = self._file(file_name)
        if not os.path.exists(path):
            raise FileNotFoundError(f"No file: {path}")
        with damage(path, "file of parameters"):
            arrays = self._read(path)
            if len(arrays) != len(self.params):
                raise InputError(
                    f"expected {len(self.params)} arrays as the model has, got {len(arrays)}"
                )
            for k, (W, array) in enumerate(zip(self.params, arrays, strict=True)):
                if W.shape != array.shape or array.dtype.kind not in "fiub":
                    raise InputError(
                        f"params[{k}]: expected real numbers of shape {W.shape} as the model has, "
                        f"got {array.dtype} {array.shape}"
                    )
                require_no_nan(f"params[{k}]", array)
        for W, array in zip(self.params, arrays, strict=True):
            W[...] = array

    def _file(self, file_name: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
        return f"{type(self).__name__}.pkl" if file_name is None else file_name

    def _read(self, path: str | os.PathLike[str]) -> list[Array]:
        # six bytes for each of a number's eight, as the oldest pickles write some, and more
        most = sum(64 * np.size(W) + 4096 for W in self.params) + (1 << 16)
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise InputError(
                    f"expected at most {most:,} bytes for the arrays of the model, got {size:,}"
                )
            if file.read(2) != b"PK":  # as every .npz file begins
                file.seek(0)
                return _pickled.read_arrays(file.read())
        _, arrays, meta = load_archive(path, KIND)
        require_names((), meta)
        names = [str(k) for k in range(len(arrays))]
        require_names(names, arrays)
        return [arrays[name] for name in names]
