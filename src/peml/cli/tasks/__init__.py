"""`peml tasks`: list the suites, show one task with rendered rows, check your own files."""
