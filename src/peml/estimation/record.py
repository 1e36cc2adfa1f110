"""What an estimate says; also the JSON of `peml estimate --json`."""

from __future__ import annotations

from pydantic import computed_field

from peml.records import Precision, Record


class Memory(Record):
    """Bytes at the peak of a training step or of an evaluation, by what they hold.

    `weights` are what is frozen, `trained` what trains, `gradients` what they take at the end of a
    step, `cache` the keys and values of generated texts at their longest. `activations` are the
    rest of the peak.
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
        """All of them."""
        return sum(getattr(self, name) for name in type(self).model_fields)


class Estimate(Record):
    """What a run is expected to take.

    `trainable_parameters` are by part, after a search as the method expects; `step_flops`, `flops`
    and `hours` are by phase; `batch` is the shape of the largest training batch; `overhead` is what
    libraries take beside the tensors.
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
        """Bytes of the larger of training and evaluation, libraries included."""
        parts = [part.total for part in (self.training, self.evaluation) if part is not None]
        return self.overhead + max(parts, default=0)
