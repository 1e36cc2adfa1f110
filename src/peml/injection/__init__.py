"""Puts prefixes in front of a model's attention; only this package uses Transformers' registries.

Use ``attach_prefix``; ``check_support`` says beforehand whether it will work.
"""
