"""Prefixes and prompts as methods: fixed, or found by a search."""
