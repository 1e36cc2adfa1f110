"""The report of a study: ``study.json`` as figures and one HTML page."""
