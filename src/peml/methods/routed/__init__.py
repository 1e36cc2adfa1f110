"""The multi-task methods, each with its low-rank layer in one file."""
