"""The definition of a task, as read from YAML."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from peml.errors import nearest
from peml.settings import Settings
from peml.tasks.chat import Chat, Shot, read_switch
from peml.tasks.columns import Columns
from peml.tasks.instructions import Form, fill_in, is_conversation
from peml.tasks.kinds import (
    BELONGING,
    BINARY,
    LOWER_IS_BETTER,
    METRICS,
    OF_TEXTS,
    OVER_GROUPS,
    Averaging,
    Normalisation,
    TaskType,
    describe_metrics,
)
from peml.tasks.matching import find_twins

_MOST_SCORES = 1001


class Source(Settings):
    """Where a task's rows come from: exactly one of hub, path and generated."""

    hub: str | None = Field(None, description="Data set id on the Hugging Face hub.")
    subset: str | None = Field(None, description="Configuration of the data set, as in its card.")
    revision: str | None = None
    """Branch, tag or commit of the hub data set. `refs/convert/parquet` has the plain files of data
    sets that are published as code."""
    path: str | None = None
    """Folder with one JSONL, CSV or Parquet file per split, or a folder that contains one named as
    the task."""
    generated: str | None = Field(None, description="Name of a built-in generator.")
    folder: str | tuple[str, ...] | None = None
    """Name of the task's folder in a local source, if none has the task's name; of several names,
    the first that exists."""
    suite: str | None = None
    """Name of a folder in a local source that may contain the task's folder; default: the name of
    the task's suite."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(value is not None for value in (self.hub, self.path, self.generated)) != 1:
            raise ValueError("give exactly one of hub, path, generated")
        if self.revision is not None and self.hub is None:
            raise ValueError("revision: only a data set of the hub has one")
        return self

    @property
    def folders(self) -> tuple[str, ...]:
        """Other names that the task's folder may have."""
        return (self.folder,) if isinstance(self.folder, str) else self.folder or ()


class Splits(Settings):
    """Names of the source's splits that are used."""

    train: str | None = "train"
    """Split to train on; null: the task is only evaluated."""
    reported: tuple[str, ...] = Field(("validation",), min_length=1)
    """Split to report, which is never used to select anything; of several names, the first that the
    source has."""

    @field_validator("reported", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Scale(Settings):
    """The range of a regression's scores, and their steps for text-to-text models."""

    low: float = Field(description="Lowest score.")
    high: float = Field(description="Highest score.")
    step: float = Field(gt=0)
    """Distance between the scores that a text-to-text model may answer."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        steps = (Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(self.step))
        if steps != steps.to_integral_value():
            raise ValueError(f"step ({self.step}) must divide high - low ({self.high - self.low})")
        if steps >= _MOST_SCORES:
            raise ValueError(f"step ({self.step}) gives more than {_MOST_SCORES} scores")
        return self

    def spell(self) -> tuple[str, ...]:
        """The scores that a text-to-text model may answer, from low to high, as texts."""
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        count = int((Decimal(str(self.high)) - low) / step) + 1
        return tuple(format((low + index * step).normalize() + 0, "f") for index in range(count))


class Shots(Settings):
    """Solved examples before each row in the prompt (few-shot)."""

    count: int = Field(0, ge=0)
    """Number of rows to show; `tasks.shots` sets it for a run. They are neither trained on nor
    scored."""
    split: str | None = Field(None, description="Split of these rows; default: the train split.")
    choose: Literal["first", "balanced"] = "first"
    """first: the first rows of the split; balanced: the first rows of each label in turn, so that
    every label is shown about equally often."""
    rows: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Numbers of the rows, from 0, instead of `choose`; the first `count` of it."""
    examples: tuple[str | Shot, ...] = ()
    """Examples instead of rows: texts, each with its answer, or {question, answer}. In a chat, the
    latter are earlier turns; texts stand in the user's last turn."""

    @model_validator(mode="after")
    def _counted_once(self) -> Self:
        if self.examples and self.count:
            raise ValueError("give count or examples, not both")
        return self


class DevelopmentSplit(Settings):
    """Size of the development split, which is taken from train and used for all choices."""

    fraction: float = Field(0.1, description="Share of the train rows.", gt=0, lt=1)
    at_most: int = Field(500, description="Most rows.", ge=1)


class Task(Settings):
    """One task, read from a YAML file.

    A task defines the source of its rows, the meaning of their columns, how a row is rendered for a
    text-to-text model (``template``, ``label_words``) and for an encoder (``segments``), and how it
    is scored. The first metric is the headline.
    """

    name: str = Field(description="Name of the task.", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    version: int = Field(1, description="Increased when the meaning of a score changes.", ge=1)
    description: str = Field("", description="One line about the task.")
    group: str | None = None
    """Group of the task within its suite, such as a subject area."""
    type: TaskType = Field(description=f"Kind of task: {', '.join(TaskType)}.")
    source: Source = Field(description="Where the rows come from.")
    format: Form | None = None
    """Instruction data, without a template: `messages` (a list of {role, content}), `sharegpt`
    (`conversations`, a list of {from, value}) or `alpaca` (instruction, input, output). A
    generation task, asked through the chat template. columns.aliases gives columns of other
    names."""
    train_on: Literal["every", "last"] = "every"
    """Answers of a conversation that are trained on: every one, but for those of weight 0, or the
    last. Only the last is reported."""
    splits: Splits = Field(default_factory=Splits, description="Splits of the source.")
    columns: Columns = Field(description="Meaning of the columns.")
    header: str | None = None
    """Jinja2 template of a text before shots and prompt, such as an instruction; a blank line
    follows it."""
    shots: Shots = Field(default_factory=Shots)
    """Solved examples before each row (few-shot)."""
    context: bool = False
    """Whether the model holds header and shots as keys and values, instead of reading them before
    every row. A method with a context sets it."""
    template: str
    """Jinja2 template of the prompt for text-to-text models, such as "{{ text }}\\nTeam:"."""
    chat: Annotated[Chat | None, BeforeValidator(read_switch)] = None
    """Decoder-only models: ask through the tokenizer's chat template; `true`, or {system: TEXT}.
    The rendered row is the user's turn, the answer the assistant's; header and shots become the
    system turn and earlier turns. `tasks.chat` sets it for a run."""
    target: str | None = None
    """Generation: Jinja2 template of the text to learn. It can use `label` and, if there are
    choices, `index`, the correct one's from 0; default: the label."""
    option: str | None = None
    """Multiple choice: Jinja2 template of each option. It can use `option`, its text, and `index`,
    from 0; default: the text."""
    segments: tuple[str, ...] | None = None
    """Encoders: one or two Jinja2 templates of the input segments; default: the input columns."""
    labels: tuple[str, ...] = Field((), description="Label names in index order.")
    label_words: tuple[str, ...] | None = None
    """Text of each label for text-to-text models; default: the label names."""
    scale: Scale | None = Field(None, description="Regression: range of the scores.")
    metrics: tuple[str, ...] = Field(
        description=f"Metrics, headline first; {describe_metrics()}.", min_length=1
    )
    weights: Literal["balanced"] | None = None
    """Classification: `balanced` weights the loss of a training row by rows / (labels * rows of its
    label), so rare labels count more. Default: no weights."""
    average: Averaging = "tasks"
    """Whether a mean over tasks weighs tasks or rows equally; rows only if all tasks of the mean
    set `rows`. A suite's `average` overrides it."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Generation: a text is cut before the first of these."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Generation: longest text in tokens; default: evaluation.max_new_tokens."""
    normalisation: Normalisation | None = None
    """What an option's log-likelihood is divided by; default: evaluation.scoring.normalisation."""
    development: DevelopmentSplit = Field(default_factory=DevelopmentSplit)
    """Development split, taken from train."""

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, definition: object) -> object:
        return fill_in(definition) if isinstance(definition, dict) else definition

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        problems = [
            *self._conversation_problems(),
            *self._foreign_problems(),
            *self._label_problems(),
            *self._column_problems(),
            *self._choice_problems(),
            *self._metric_problems(),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _foreign_problems(self) -> Iterator[str]:
        """Problems with settings that belong to other task types."""
        for name, why in BELONGING.items():
            owner: Settings = self.columns if name.startswith("columns.") else self
            given = getattr(owner, name.removeprefix("columns."))
            if given not in (None, ()) and name not in self.type.settings:
                yield f"{name}: a {self.type} task {why}"

    def _conversation_problems(self) -> Iterator[str]:
        if not self.is_conversation:
            if self.train_on == "last":
                yield "train_on: last is for conversations (format messages or sharegpt)"
            return
        if self.chat is None:
            yield f"chat: needed for format {self.format}, whose rows are turns"
        if self.shots.count or self.shots.examples:
            yield f"shots: rows of format {self.format} have earlier turns of their own"

    def _label_problems(self) -> Iterator[str]:
        if self.type.has_labels and len(self.labels) < 2:
            yield "labels: a classification task needs two or more"
        if len(set(self.labels)) != len(self.labels):
            yield "labels: a name is given twice"
        for twins in find_twins(self.labels):
            yield f"labels: {twins}"
        words = self.label_words
        if words is not None and self.labels and len(words) != len(self.labels):
            yield f"label_words: {len(words)} given for {len(self.labels)} labels"
        for field, texts in (("labels", self.labels), ("label_words", self.label_words or ())):
            if not all(text.strip() for text in texts):
                yield f"{field}: a text is empty"
        if len(set(self.label_words or ())) != len(self.label_words or ()):
            yield "label_words: a word is given twice"
        if self.type.has_scale and self.scale is None:
            yield "scale: a regression task needs one"

    def _column_problems(self) -> Iterator[str]:
        if self.type.is_pair and len(self.columns.inputs) != 2:
            yield f"columns.inputs: a {self.type} task needs exactly two"
        other = self.columns.aliases
        if self.columns.label in (*self.columns.shown, *self.columns.group):
            yield f"columns.label: {self.columns.label!r} is an input too"
        elif twins := [n for n in self.columns.shown if other.get(n) == self.columns.label]:
            yield f"columns.aliases: {twins[0]!r} would show the label"
        if self.segments is not None and len(self.segments) not in (1, 2):
            yield "segments: one or two templates"
        encoded = "segments" in self.type.settings
        if self.segments is None and len(self.columns.inputs) > 2 and encoded:
            yield "segments: more than two inputs need one or two templates"
        yield from self._kind_problems()

    def _kind_problems(self) -> Iterator[str]:
        kind = self.columns.kinds.get(self.columns.label)
        valued = self.type.has_scale or self.target is not None
        if kind == "number" and self.columns.keys is not None:
            yield (
                "columns.kinds: a label that is an index needs no columns.keys; remove one of them"
            )
        elif self.type.has_scale and kind not in (None, "number"):
            yield f"columns.kinds: the label of a regression is a number, not a {kind}"
        elif kind == "boolean" and not valued:
            yield f"columns.kinds: the label of a {self.type} task is a text or a number"

    def _choice_problems(self) -> Iterator[str]:
        columns = self.columns
        if self.type.has_own_options and columns.choices is None:
            yield "columns.choices: a multiple choice task needs it"
        if self.type.generates and columns.choices is not None and not self.target:
            yield "target: needed to spell the correct one of columns.choices"
        if columns.keys is not None and columns.choices is None:
            yield "columns.keys: needs columns.choices"
        if isinstance(columns.choices, tuple) and len(columns.choices) < 2:
            yield "columns.choices: give one field with a list, or at least two fields"

    def _metric_problems(self) -> Iterator[str]:
        usable = ", ".join(self.type.metrics)
        for name in self.metrics:
            if name not in METRICS:
                close = nearest(name, METRICS)
                yield f"metrics: {name!r} is not known.{close} A {self.type} task can use {usable}"
            elif name not in self.type.metrics:
                yield f"metrics: {name!r} can't score {self.type}; use {usable}"
            elif name in BINARY and len(self.labels) > 2:
                yield f"metrics: {name!r} needs exactly two labels; use macro_f1"
            elif name in OVER_GROUPS and not self.columns.group:
                yield f"metrics: {name!r} is over groups of rows; set columns.group"
        if self.metrics[0] in LOWER_IS_BETTER:
            yield (
                f"metrics: {self.metrics[0]!r} can't come first: lower is better, and the headline "
                "is what runs are chosen by; put r2, pearson or spearman first"
            )
        if self.metrics[0] in OVER_GROUPS:
            yield (
                f"metrics: {self.metrics[0]!r} can't come first; intervals of the headline draw "
                "single rows"
            )
        if self.type.has_own_options and len({m in OF_TEXTS for m in self.metrics}) > 1:
            yield "metrics: of options (accuracy) or of their texts (span_...), not both"
        if self.answers_in_text and self.option is not None:
            yield "option: span metrics compare the original texts; remove it"

    @property
    def is_conversation(self) -> bool:
        """Whether a row is a list of turns, the last of which is learnt."""
        return is_conversation(self.format)

    @property
    def answers_in_text(self) -> bool:
        """Whether a multiple choice is scored on the texts of its options."""
        return self.type.has_own_options and self.metrics[0] in OF_TEXTS

    @property
    def verbalised_labels(self) -> tuple[str, ...]:
        """The label words; by default the label names."""
        return self.label_words if self.label_words is not None else self.labels
