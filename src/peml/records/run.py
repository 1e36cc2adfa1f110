"""The JSON files of a run folder, except the genotype's own and the model's."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from peml.records.plan import Precision
from peml.records.record import FileRecord, Record, Score

_OFF = "_off"
MajorityOf = Literal["train", "reported"]


def _by_part(scores: Any) -> Any:
    """The scores without a part, by its name, from the keys ``{part}_off``."""
    if not isinstance(scores, Mapping):
        return scores
    return {name.removesuffix(_OFF): value for name, value in scores.items()}


def _as_off(scores: Mapping[str, float]) -> dict[str, float]:
    return {f"{part}{_OFF}": value for part, value in scores.items()}


class Environment(FileRecord):
    """``environment.json``: versions, device and commit of the run."""

    FILE: ClassVar[str] = "environment.json"

    versions: dict[str, str] = {}
    python: str = ""
    device: str = ""
    commit: str | None = None


class Classes(Record):
    """The details of a classification: each label's F1, and counts by (right, predicted) label."""

    labels: list[str]
    f1: list[float]
    confusion: list[list[int]]

    @property
    def support(self) -> list[int]:
        """The number of rows of each label."""
        return [sum(row) for row in self.confusion]


class TaskResult(Record):
    """A task's entry in ``results.json``; scores are fractions, on the reported split.

    `low` and `high` bound the value's 95 % interval over rows. `majority_of` is the split that the
    majority baseline comes from. `without` is the score with a part switched off, by the part's
    name; in the file, each is a key ``{part}_off``. `classes` has the details of a classification;
    `notes` are remarks on how the task was scored.
    """

    metric: str
    value: Score
    low: Score = math.nan
    high: Score = math.nan
    all: dict[str, Score] = {}
    majority: Score = math.nan
    majority_of: MajorityOf = "train"
    rows: int
    notes: list[str] = []
    classes: Classes | None = None
    without: dict[str, Score] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather_ablations(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "without" in data:
            return data
        scores = {name: value for name, value in data.items() if name.endswith(_OFF)}
        kept = {name: value for name, value in data.items() if name not in scores}
        return kept | {"without": _by_part(scores)}

    @model_serializer(mode="wrap")
    def _spread_ablations(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        return dumped | _as_off(dumped.pop("without"))


class TaskScored(FileRecord):
    """``evaluation/NAME.json``: a scored task, so that an evaluation can be resumed."""

    result: TaskResult
    seconds: float


class TuningCost(FileRecord):
    """The cost of the runs that found a run's settings; ``tuning_cost.json`` of a study."""

    model_config = ConfigDict(extra="forbid")  # a config holds it as well

    FILE: ClassVar[str] = "tuning_cost.json"
    THING: ClassVar[str] = "study"

    trials: int = Field(description="Number of runs.", ge=0)
    seconds: float = Field(description="Seconds of all these runs.", ge=0)
    tokens: int = Field(description="Training tokens of all these runs.", ge=0)


class Spent(Record):
    """The cost so far: seconds, tokens and steps of each phase, memory in bytes."""

    seconds: dict[str, float] = {}
    tokens: dict[str, int] = {}
    steps: dict[str, int] = {}
    peak_memory_bytes: int | None = None


class Cost(Spent):
    """The cost of a run; parameters are by group, as trained at the end.

    A search trains more parameters: those of the supernet.
    """

    trainable_parameters: dict[str, int]
    total_trainable_parameters: int
    trainable_parameters_in_search: int | None = None
    tuning: TuningCost | None = None

    def spent(self) -> Spent:
        """What grows while a run goes on."""
        return Spent(**self.model_dump(include=set(Spent.model_fields)))


class Means(Record):
    """Means over tasks; `ablation_means` is by the name of the part switched off."""

    mean: Score
    low: Score = math.nan
    high: Score = math.nan
    majority_mean: Score = math.nan
    ablation_means: Annotated[
        dict[str, Score], BeforeValidator(_by_part), PlainSerializer(_as_off)
    ] = {}


class GroupMeans(Means):
    """Means over the tasks of a group."""

    tasks: Sequence[str]


class Agreement(Record):
    """How close the saved model's scores are to the trained model's, on a number of reported rows.

    `largest_difference` is relative to 1 + the trained model's score, which is a logit of an
    encoder's head, or a text's log-likelihood per token; `tolerance` is the largest accepted
    difference. If the run's model is quantised, the trained model here is the one with dequantised
    weights, and `from_quantized` is the largest relative difference of its scores from the
    quantised model's.
    """

    rows: int
    largest_difference: float
    tolerance: float
    from_quantized: float | None = None

    @property
    def sentence(self) -> str:
        """The agreement as a sentence, for reports."""
        said = (
            f"The saved model, read back from disk, answers {self.rows:,} rows as the trained one "
            f"did: scores differ by at most {self.largest_difference:.0e} x (1 + the score); "
            f"{self.tolerance:g} would be accepted."
        )
        if self.from_quantized is None:
            return said
        return (
            f"The scores of this run are of the quantised model. The saved model has dequantised "
            f"weights; its scores differ by up to {self.from_quantized:.1g} x (1 + the score) from "
            f"those of the quantised one. {said}"
        )


class Results(Means, FileRecord):
    """``results.json``: the results of evaluation on the reported split.

    `merging` is ``once``, ``per task`` or ``never``; `average` is the unit that has equal weight in
    the mean, ``tasks`` or ``rows``.
    """

    FILE: ClassVar[str] = "results.json"

    format: int = 1
    method: str
    merging: str | None = None
    needs_task_id: bool = False
    model: str
    precision: Precision | None = None
    seed: int
    tasks: dict[str, TaskResult] = Field(min_length=1)
    average: str = "tasks"
    groups: dict[str, GroupMeans] = {}
    export: Agreement | None = None
    cost: Cost

    @property
    def parts(self) -> list[str]:
        """The parts without which some task was scored; LoRA comes last, since many methods share
        it.
        """
        named = dict.fromkeys(part for task in self.tasks.values() for part in task.without)
        return sorted(named, key=lambda part: part == "lora")


class Ending(FileRecord):
    """``FOLDER.json`` beside a run folder: why the run failed, or where it was stopped."""

    status: Literal["failed", "pruned"] = "failed"
    reason: str = ""
    step: int | None = None
    value: Score | None = None

    @model_validator(mode="after")
    def _says_what_happened(self) -> Self:
        if self.status == "failed" and not self.reason:
            raise ValueError("the reason of the failure is missing")
        if self.status == "pruned" and None in (self.step, self.value):
            raise ValueError("step or value of the last evaluation is missing")
        return self


class GenotypeRecord(FileRecord):
    """The fields of ``genotype.json`` that reports show, so that plug-ins needn't be installed."""

    FILE: ClassVar[str] = "genotype.json"

    cells: tuple[str, ...] = Field(description="Operation of each cell.", min_length=1)
    length: int = Field(description="Number of prefix positions.", ge=1)
    layers: tuple[bool, ...] = Field(description="Which model layers get a prefix.")
    head: str
    head_rank: int | None = None
    width: int = Field(description="Hidden size of the network.", ge=1)
    shape: Any = None
    found_by: Any = None
