"""The loop over time, forward: nothing for Python."""
