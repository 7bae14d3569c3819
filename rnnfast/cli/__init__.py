"""The command `rnnfast`, a file for each of its commands."""

from .commands import main

__all__ = ["main"]
