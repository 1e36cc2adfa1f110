"""Carries out a run, from its config to the finished model: the run folder and its phases."""
