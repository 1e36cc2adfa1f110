"""Contexts: each task's instruction and solved rows, held as keys and values."""
