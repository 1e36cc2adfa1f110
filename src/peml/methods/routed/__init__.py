"""Low-rank layers of the multi-task methods: each method and its layer in one file."""
