"""``plan.json``: a run's plan, and the checksums of its inputs."""

from typing import Any, ClassVar, Literal

from peml.records.record import FileRecord, Record


class TaskIdentity(Record):
    """Checksums of a task's rows, by split, and of its definition, by field."""

    rows: dict[str, str]
    definition: dict[str, str]


class Identity(Record):
    """Checksums of a run's inputs.

    `model` is by part: weights, tokenizer, ...; `files` by the setting that names them.
    """

    tasks: dict[str, TaskIdentity]
    model: dict[str, str]
    files: dict[str, str] = {}


class PlannedContext(Record):
    """The context that a method puts in front of a task's rows: its text and its solved rows.

    `rows` are their numbers in the split, from 0.
    """

    split: str | None = None
    rows: list[int] = []
    text: str
    tokens: int


class PlannedTask(Record):
    """One task of the plan, with the number of rows of each split.

    `held_out` are development rows on which the search chooses. `cut` are rows longer than the
    model allows, `cut_{split}` those of a split.
    """

    name: str
    version: int | None = None
    type: str
    train: int
    development: int
    held_out: int | None = None
    reported: int
    metric: str
    cut: int = 0
    cut_train: int = 0
    cut_development: int = 0
    cut_reported: int = 0
    origin: str = ""
    context: PlannedContext | None = None


class SkippedTask(Record):
    """A task left out, and why."""

    name: str
    reason: str


class LeakageEntry(Record):
    """Rows of one task's evaluation split that also occur in a task's training split.

    `evaluation_rows` are the rows of the whole split, `anywhere` those that occur in any training
    split.
    """

    evaluation: str
    split: str
    train: str
    rows: int
    evaluation_rows: int
    anywhere: int


class Precision(Record):
    """The precision of a run with its reason, and the types of its frozen weights and saved model.

    `quantization` is the format of the frozen linear layers; None if they have the type in
    `weights`.
    """

    compute: Literal["fp32", "bf16"]
    weights: Literal["float32", "bfloat16", "float16"]
    exported: Literal["float32", "bfloat16", "float16"] = "float32"
    reason: str
    quantization: str | None = None

    @property
    def sentence(self) -> str:
        """The precision as a sentence."""
        stored: str = self.weights
        if self.quantization is not None:
            stored = f"{self.quantization} (those that are not of linear layers in {stored})"
        return f"{self.compute}, frozen weights in {stored}: {self.reason}"


class Start(Record):
    """The weights that training started from, if they were not new.

    `taken` is the number of weights by part; `heads` and `new_tasks` are names of tasks; `left`
    gives the reason for each part that was not taken over. `checksum` is of the file of weights.
    """

    source: str
    checksum: str
    taken: dict[str, int]
    heads: list[str] = []
    new_tasks: list[str] = []
    left: dict[str, str] = {}

    @property
    def sentences(self) -> list[str]:
        """The start as sentences."""
        parts = [f"{name} ({count:,} weights)" for name, count in self.taken.items()]
        parts += [f"heads of {', '.join(self.heads)}"] if self.heads else []
        said = [f"Starting from {self.source}: {', '.join(parts)}"]
        if self.new_tasks:
            said.append(f"new tasks: {', '.join(self.new_tasks)}")
        said += [f"not taken over: {name} ({reason})" for name, reason in self.left.items()]
        return said


class Plan(FileRecord):
    """``plan.json``: a run's plan, and the checksums of its inputs.

    `trainable_parameters` are by group, `steps` by phase; `start` is None if all weights were new;
    `config` is what the config said at the start, but for what may change or `identity` tells.
    """

    FILE: ClassVar[str] = "plan.json"

    tasks: list[PlannedTask]
    skipped: list[SkippedTask] = []
    leakage: list[LeakageEntry] = []
    leakage_action: str = "report"
    leakage_dropped: dict[str, int] = {}
    precision: Precision | None = None
    max_length: int | None = None
    trainable_parameters: dict[str, int] = {}
    batches_per_epoch: int | None = None
    batches_per_step: int = 1
    padding: float | None = None
    tokens_per_epoch: int | None = None
    steps: dict[str, int] = {}
    identity: Identity
    config: dict[str, Any] = {}
    start: Start | None = None

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return any(self.steps.values())

    @property
    def data(self) -> dict[str, Any]:
        """The fields that show whether the data is the same."""
        splits = {"train", "development", "reported"}
        return {
            "tasks": {task.name: task.model_dump(include=splits) for task in self.tasks},
            **self.model_dump(include={"tokens_per_epoch", "batches_per_epoch", "steps"}),
        }
