"""Comparisons: ``comparison.json`` read back as tables, figures and one HTML page."""
