"""What a checkpoint's ``state.json`` says."""

from typing import Any, ClassVar

from peml.prefix import Genotype
from peml.records import FileRecord, Spent
from peml.training import Progress


class SessionState(FileRecord):
    """Where a run's training stands, beside its tensors.

    `genotype` is the network once it is decided, `search` what the search remembers while it runs,
    `stream` the position in the data, `log_offset` the bytes of ``metrics.jsonl`` that are sure.
    """

    FILE: ClassVar[str] = "state.json"

    phase: str
    genotype: Genotype | None
    search: dict[str, Any] | None
    progress: Progress
    stream: dict[str, Any]
    log_offset: int
    cost: Spent
