"""Training: the loop, the optimiser and the checkpoints."""
