"""Reports: the results in a run, comparison or study folder as tables, figures and an HTML page.

This package only reads such folders.
"""
