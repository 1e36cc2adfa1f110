"""Comparisons: methods x seeds x suites in one folder, at equal cost."""
