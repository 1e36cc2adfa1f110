"""Units that tables, reports and the terminal share."""

from __future__ import annotations


def memory(size: float) -> str:
    """Bytes in GiB, or in MiB where that is less than one."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
