"""The candidate operations of a cell.

A package adds one through the entry point group ``peml.operations``: a subclass of
:class:`Operation`, checked with ``peml.testing.OperationSuite``. Its name in
``prefix.operations`` makes it a candidate.
"""
