"""Analysis of stored predictions: intervals, paired differences, mistakes."""
