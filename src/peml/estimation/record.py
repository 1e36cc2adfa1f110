"""The result of an estimate; also the JSON of `peml estimate --json`."""

from pydantic import computed_field

from peml.records.plan import Precision
from peml.records.record import Record


class Memory(Record):
    """Bytes at the peak of a training step or of an evaluation.

    `weights` are frozen, `trained` are the trained ones, `gradients` are at the end of a step,
    `cache` is the keys and values of generated texts at their longest, `activations` the rest.
    """

    weights: int
    trained: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    cache: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        """Sum of all."""
        return sum(getattr(self, name) for name in type(self).model_fields)


class Estimate(Record):
    """Expected memory, FLOPs and hours of a run.

    `trainable_parameters` are by part, after a search; `step_flops`, `flops` and `hours` are by
    phase; `batch` is the shape of the largest training batch; `overhead` are bytes of libraries.
    """

    model: str
    method: str
    parameters: int
    trainable_parameters: dict[str, int]
    trainable_parameters_in_search: dict[str, int] | None
    precision: Precision
    basis: str
    batch: list[int] | None
    training: Memory | None
    evaluation: Memory | None
    steps: dict[str, int]
    step_flops: dict[str, float]
    flops: dict[str, float]
    device: str
    device_memory: int | None
    overhead: int
    peak: float
    share: float
    hours: dict[str, float]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def needed(self) -> int:
        """Bytes of training or evaluation, whichever needs more, with libraries."""
        parts = [part.total for part in (self.training, self.evaluation) if part is not None]
        return self.overhead + max(parts, default=0)
