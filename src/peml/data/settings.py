"""The ``tasks`` section of a config: which tasks and which of their rows."""

from typing import Literal, Self

from pydantic import Field, model_validator

from peml.data.mixing import MixingSettings
from peml.errors import ConfigError, nearest
from peml.settings import Settings
from peml.tasks import Chat, Shots, Task, load_suite, load_task_file, with_bare_template
from peml.tasks.suite import join_suites


class TasksSettings(Settings):
    """The ``tasks`` section of a config."""

    suite: str | tuple[str, ...] | None = None
    """Name of a bundled suite, or path of a suite's YAML file; a list for several. With several, a
    task name that occurs twice becomes SUITE-TASK."""
    files: tuple[str, ...] = ()
    """YAML files of single tasks, added to the suite's."""
    include: tuple[str, ...] = ()
    """Names of the tasks to use, in the suite's order; default: all."""
    exclude: tuple[str, ...] = Field((), description="Names of the tasks to leave out.")
    source: str | None = None
    """Folder with one folder per task ({train,validation}.jsonl, .csv or .parquet), or one per
    suite that contains these; read instead of the tasks' sources. Hyphens and underscores in folder
    names are interchangeable."""
    missing: Literal["refuse", "skip", "hub"] = "refuse"
    """If a task has no data: refuse stops, skip continues without the task and says so, hub loads
    tasks that `source` lacks from the hub."""
    shots: int | None = Field(None, ge=0)
    """Solved examples before every row of every task (few-shot), also in training; default: as each
    task defines. Text-to-text models only."""
    chat: bool | Chat | None = None
    """Whether all tasks are asked through the tokenizer's chat template: true, false, or {system:
    TEXT} for a system turn, where what is left out is the task's own; default: as each task
    defines. Decoder-only models with a chat template only."""
    bare: bool = False
    """Prompts show only a row's fields (the task's segments, by default its inputs), one per line,
    before the answer. For methods that hold the instruction elsewhere (method.context.instruction).
    Text-to-text models only."""
    rows: int | None = Field(None, ge=1)
    """Maximum train rows per task, drawn after the development split is taken. Rows that a method's
    context shows count."""
    evaluation_rows: int | None = Field(None, description="Maximum reported rows per task.", ge=1)
    development_rows: int | None = Field(None, ge=1)
    """Maximum development rows per task."""
    leakage: Literal["report", "drop"] = "report"
    """Train rows that are also in an evaluation split of any task: report counts them, drop also
    removes them from training."""

    @model_validator(mode="after")
    def _names_some(self) -> Self:
        if not self.suite and not self.files:
            raise ValueError("give suite (a name or a YAML file) or files")
        return self


def select_tasks(settings: TasksSettings) -> tuple[Task, ...]:
    """Reads the suites and task files, and returns the selected tasks in order.

    Raises:
        TaskError: A suite or task file can't be used, or a task's prompts can't be bare.
        ConfigError: A name in ``include`` or ``exclude`` is unknown, a name occurs twice, no task
            is left, or a task has fewer written shots than ``shots``.
    """
    named = (settings.suite,) if isinstance(settings.suite, str) else settings.suite or ()
    suites = [load_suite(name) for name in named]
    of_suites = suites[0].tasks if len(suites) == 1 else join_suites(suites)
    tasks = (*of_suites, *(load_task_file(path) for path in settings.files))
    names = [task.name for task in tasks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    problems = [f"tasks.files: task {name!r} is there twice" for name in repeated]
    for field, wanted in (("include", settings.include), ("exclude", settings.exclude)):
        problems += [
            f"tasks.{field}: there is no task {name!r}.{nearest(name, names)}"
            for name in wanted
            if name not in names
        ]
    if problems:
        raise ConfigError(
            "\n".join(problems), allowed=", ".join(sorted(set(names))), action="Correct the names."
        )
    chosen = tuple(
        task
        for task in tasks
        if task.name in (settings.include or names) and task.name not in settings.exclude
    )
    if not chosen:
        raise ConfigError(
            "tasks.include and tasks.exclude leave no task.",
            allowed=f"one task or more of {', '.join(names)}",
            action="Shorten tasks.exclude.",
        )
    turns = [task.name for task in chosen if task.is_conversation]
    if turns and (settings.shots or settings.chat is False):
        field = "shots" if settings.shots else "chat: false"
        raise ConfigError(
            f"tasks.{field} doesn't go with {', '.join(turns)}, whose rows are conversations",
            allowed="conversations through the chat template, with the turns they have",
            action="leave it out, or leave these tasks out (tasks.exclude)",
        )
    if settings.bare:
        chosen = tuple(map(with_bare_template, chosen))
    if settings.shots is not None:
        chosen = _with_shots(chosen, settings.shots)
    return chosen if settings.chat is None else with_chat(chosen, settings.chat)


def with_chat(tasks: tuple[Task, ...], chat: bool | Chat) -> tuple[Task, ...]:
    """The tasks, asked through the chat template or not; what `chat` leaves out is a task's own."""

    def choose(task: Task) -> Chat | None:
        own = task.chat or Chat()
        if isinstance(chat, Chat):
            variables = {**own.variables, **chat.variables}
            return Chat(system=chat.system or own.system, variables=variables)
        return own if chat else None

    return tuple(task.model_copy(update={"chat": choose(task)}) for task in tasks)


def _with_shots(tasks: tuple[Task, ...], count: int) -> tuple[Task, ...]:
    """The tasks with ``count`` shots; of written examples, the first ones."""
    short = [task.name for task in tasks if 0 < len(task.shots.examples) < count]
    if short:
        raise ConfigError(
            f"tasks.shots: {count}, and fewer examples are written in {', '.join(short)}.",
            allowed="at most the task's own shots.examples",
            action="Lower tasks.shots, or write more examples.",
        )

    def take(shots: Shots) -> Shots:
        written = shots.examples
        change = {"examples": written[:count]} if written else {"count": count}
        return shots.model_copy(update=change)

    return tuple(task.model_copy(update={"shots": take(task.shots)}) for task in tasks)


class BatchSettings(Settings):
    """Budget and mixing of the training batches."""

    tokens: int = Field(2048, description="Maximum tokens of a batch, padding included.", ge=16)
    rows: int = Field(32, description="Maximum rows of a batch.", ge=1)
    pool: int = Field(64, ge=1)
    """Number of batches whose rows are sorted by length together. More means less padding, fewer
    means more mixing."""
    even_steps: bool = False
    """The batches of a step (`training.accumulation`) are of similar length, so that processes wait
    less for each other. If the rows of tasks differ in length, a step then has fewer tasks."""
    packing: bool = False
    """The rows of a training batch are one sequence without padding, each with positions and
    attention of its own. Batches and losses stay the same."""
    mixing: MixingSettings = Field(default_factory=lambda: MixingSettings())
    """Share of each task."""
