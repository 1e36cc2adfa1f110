"""Tuning: trials of one run config over a space, on one machine or many, in one folder."""
