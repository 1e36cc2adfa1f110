"""`peml evaluate`: what finished runs' predictions say, with intervals, tests and mistakes."""
