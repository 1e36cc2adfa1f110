"""Exact likelihoods of answer options; common prefixes of tokens are computed once."""
