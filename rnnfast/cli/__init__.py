"""The command `rnnfast`."""

from .commands import main

__all__ = ["main"]
