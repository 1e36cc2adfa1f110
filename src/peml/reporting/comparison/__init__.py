"""The report of a comparison: ``comparison.json`` as tables, figures and one HTML page."""
