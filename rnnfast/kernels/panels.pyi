"""Matrices in panels: nothing for Python."""
