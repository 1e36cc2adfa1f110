"""`peml evaluate`: scores of finished runs with intervals, paired tests, and mistakes."""
