"""The HTTP service of a finished model."""
