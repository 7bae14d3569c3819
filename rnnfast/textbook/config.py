"""Where the book's programs say whether they compute on a GPU: `GPU`, which is False."""

import sys
from types import ModuleType
from typing import Any

__all__ = ["GPU"]

GPU: bool = False


class _Config(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "GPU" and value:
            raise ValueError(
                f"GPU: expected False, got {value!r}: rnnfast computes on the CPU alone; leave out "
                "the line that sets it"
            )
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Config
