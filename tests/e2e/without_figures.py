"""Importing this leaves the process's reports unrendered; processes of `apart` begin with it."""

from tests.e2e.unrendered import unrender

unrender(setattr)
