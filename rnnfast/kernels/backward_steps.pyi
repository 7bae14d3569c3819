"""The loop over time, back: nothing for Python."""
