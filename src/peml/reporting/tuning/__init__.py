"""Studies: ``study.json`` read back as figures and one HTML page."""
