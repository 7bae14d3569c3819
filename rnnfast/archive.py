"""Files that are whole or not there: written beside their place, synced, then renamed.

A checkpoint is an .npz file of plain arrays, of which one holds JSON; nothing in it is executed
when it is loaded, and the archive's checksums are compared.
"""

import errno
import json
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from .errors import InputError

FORMAT = "rnnfast checkpoint 1"


def write_atomically(path, write):
    """Call `write(file)` on a binary file that takes the place of `path` when all is on disk."""
    path = Path(path)
    # one name for all attempts: what a killed process leaves is overwritten by the next one
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened, nor its entry synced
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system can
                raise
        finally:
            os.close(folder)


def save_checkpoint(path, arrays, meta):
    """Write arrays (a dict by name) and `meta`, whatever JSON can hold, to `path`."""
    text = json.dumps({"format": FORMAT, **meta})
    encoded = np.frombuffer(text.encode(), np.uint8)
    write_atomically(path, lambda file: np.savez(file, **{"meta.json": encoded}, **arrays))


def load_checkpoint(path):
    """What `save_checkpoint` wrote: (arrays, meta). Raises InputError for any other file."""
    try:
        # opened here, since np.load leaves a damaged archive open
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(arrays.pop("meta.json").tobytes())
        if meta.pop("format") != FORMAT:
            raise InputError(f"{path} was written by another version of rnnfast; use that one")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path") from None
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    except Exception as error:  # whatever zipfile, NumPy and json make of arbitrary bytes
        raise InputError(f"{path} is no checkpoint, or is damaged: {error}") from error
    return arrays, meta
