"""The ``state.json`` of a checkpoint."""

from typing import Any, ClassVar

from peml.prefix.genotype import Genotype
from peml.records.record import FileRecord
from peml.records.run import Spent
from peml.training.loop import Progress


class SessionState(FileRecord):
    """The state of a run's training, beside its tensors.

    `genotype` is the network once it is chosen, `search` the state of a running search, `stream`
    the position in the data, `log_offset` the number of valid bytes of ``metrics.jsonl``.
    """

    FILE: ClassVar[str] = "state.json"

    phase: str
    genotype: Genotype | None
    search: dict[str, Any] | None
    progress: Progress
    stream: dict[str, Any]
    log_offset: int
    cost: Spent
