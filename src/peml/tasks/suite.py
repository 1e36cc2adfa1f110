"""Suites, which are named lists of tasks, and how they are read from YAML files."""

from collections import Counter
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from peml.errors import TaskError, nearest
from peml.problems import describe_problems, list_problems
from peml.settings import Settings
from peml.tasks.kinds import Averaging
from peml.tasks.task import Task
from peml.tasks.template import TaskRenderer
from peml.tasks.yaml_file import read_yaml

MEMBER = "$member"
"""Replaced by the member's name in every text of a family's task."""


class TaskFamily(Settings):
    """An entry of a suite that defines one task per member."""

    members: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Names of the tasks, by group."""
    task: dict[str, Any]
    """The shared definition, without name and group; `$member` is replaced by the name."""

    @field_validator("task")
    @classmethod
    def _leaves_the_name_open(cls, task: dict[str, Any]) -> dict[str, Any]:
        given = [key for key in ("name", "group") if key in task]
        if given:
            raise ValueError(f"{' and '.join(given)}: set by members; remove it here")
        return task


class Suite(Settings):
    """A named list of tasks that are trained and reported together."""

    name: str = Field(description="Name of the suite.", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    version: int = Field(1, description="Increased when its tasks or their meaning change.", ge=1)
    description: str = Field("", description="One line about the suite.")
    average: Averaging | None = None
    """Whether a mean over its tasks weighs `tasks` or `rows` equally; default: as each task sets
    it."""
    tasks: tuple[Task, ...] = Field(min_length=1)
    """The tasks, in the order of all tables. Each is a definition, or `file: NAME.yaml` next to the
    suite's file, or a family: `members` by group and the `task` they share."""

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        counts = Counter(task.name for task in self.tasks)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"tasks: name given twice: {', '.join(twice)}")
        return self

    def task(self, name: str) -> Task:
        """Returns the task of that name.

        Raises:
            TaskError: The suite has none; the nearest name is suggested.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        names = [task.name for task in self.tasks]
        raise TaskError(
            f"Suite {self.name!r} has no task {name!r}.{nearest(name, names)}",
            allowed=", ".join(names),
            action="Name one of these.",
        )


def list_suites() -> tuple[str, ...]:
    """Names of the bundled suites, sorted."""
    names = [entry.name for entry in _suites_folder().iterdir()]
    return tuple(sorted(n.removesuffix(".yaml") for n in names if n.endswith(".yaml")))


def load_suite(name_or_path: str | Path) -> Suite:
    """Reads a bundled suite by name, or a suite from a YAML file.

    Paths in a suite file (``file:``, ``source.path``) are relative to that file.

    Raises:
        TaskError: There is no such suite or file, or the definition has problems; all are listed.
    """
    text = str(name_or_path)
    if text in list_suites():
        return _read_suite(_suites_folder() / f"{text}.yaml", folder=None)
    path = Path(text)
    if path.suffix not in (".yaml", ".yml"):
        raise TaskError(
            f"There is no suite {text!r}.{nearest(text, list_suites())}",
            allowed=f"{', '.join(list_suites())}, or the path of a .yaml file",
            action="Name one of these; `peml tasks list` describes them.",
        )
    return _read_suite(path, folder=path.resolve().parent)


def load_definition(name_or_path: str | Path) -> Suite | Task:
    """A suite by name, or what a YAML file defines: a suite (it lists ``tasks``), or one task.

    Raises:
        TaskError: There is no such suite or file, or the definition has problems; all are listed.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") and "tasks" not in read_yaml(path):
        return load_task_file(path)
    return load_suite(name_or_path)


def join_suites(suites: Sequence[Suite]) -> tuple[Task, ...]:
    """The tasks of several suites, to be trained and reported together.

    A task's name that occurs in several suites becomes SUITE-TASK. The suite is the group of tasks
    without a group.
    """
    counts = Counter(task.name for suite in suites for task in suite.tasks)
    joined = []
    for suite in suites:
        for task in suite.tasks:
            name = f"{suite.name}-{task.name}" if counts[task.name] > 1 else task.name
            change = {"name": name, "group": task.group or suite.name}
            joined.append(task.model_copy(update=change))
    return tuple(joined)


def load_task_file(path: str | Path) -> Task:
    """Reads one task from its own YAML file.

    Raises:
        TaskError: The file can't be read, or the definition has problems; all are listed.
    """
    file = Path(path)
    content = _with_absolute_path(read_yaml(file), file.resolve().parent)
    try:
        task = Task.model_validate(content)
    except ValidationError as error:
        raise _invalid(file, describe_problems(error, Task)) from error
    TaskRenderer(task)  # refuses a bad template now, not at the first row
    return task


def _suites_folder() -> Traversable:
    return resources.files("peml.tasks") / "suites"


def _read_suite(file: Path | Traversable, folder: Path | None) -> Suite:
    content = read_yaml(file)
    entries = content.get("tasks")
    if isinstance(entries, list):
        entries = _expand_families(file, entries)
        content = {**content, "tasks": [_read_entry(entry, folder) for entry in entries]}
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        problems = describe_problems(error, Suite)
        raise _invalid(file, [_with_name(line, entries) for line in problems]) from error
    for task in suite.tasks:
        TaskRenderer(task)
    return suite.model_copy(
        update={"tasks": tuple(_with_suite(task, suite) for task in suite.tasks)}
    )


def _with_suite(task: Task, suite: Suite) -> Task:
    """A task with its suite's name and average."""
    source = task.source.model_copy(update={"suite": task.source.suite or suite.name})
    average = suite.average or task.average
    return task.model_copy(update={"source": source, "average": average})


def _expand_families(file: Path | Traversable, entries: list[Any]) -> list[Any]:
    """The entries, with the tasks of each family in its place."""
    expanded: list[Any] = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or "members" not in entry:
            expanded.append(entry)
            continue
        try:
            family = TaskFamily.model_validate(entry)
        except ValidationError as error:
            found = "\n".join(describe_problems(error, TaskFamily)).splitlines()
            raise _invalid(file, [f"tasks[{index}].{line}" for line in found]) from error
        expanded += (
            {"name": name, "group": group, **_filled(family.task, name)}
            for group, names in family.members.items()
            for name in names
        )
    return expanded


def _filled(value: Any, name: str) -> Any:
    if isinstance(value, str):
        return value.replace(MEMBER, name)
    if isinstance(value, dict):
        return {key: _filled(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, name) for item in value]
    return value


def _read_entry(entry: Any, folder: Path | None) -> Any:
    if not isinstance(entry, dict):
        return entry
    if set(entry) == {"file"} and folder is not None:
        return load_task_file(folder / str(entry["file"]))
    return _with_absolute_path(entry, folder)


def _with_absolute_path(content: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Resolves a relative ``source.path`` against the definition's folder."""
    source = content.get("source")
    if folder is None or not isinstance(source, dict) or not isinstance(source.get("path"), str):
        return content
    return {**content, "source": {**source, "path": str(folder / source["path"])}}


def _with_name(problem: str, entries: Any) -> str:
    """Adds the task's name to ``tasks[3].labels: ...``."""
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        start = f"tasks[{index}]"
        if problem.startswith((f"{start}.", f"{start}:")) and isinstance(entry, dict):
            return f"{start} {entry.get('name', '(no name)')}{problem.removeprefix(start)}"
    return problem


def _invalid(file: Path | Traversable, problems: list[str]) -> TaskError:
    in_suite = any(problem.startswith("tasks[") for problem in problems)
    return TaskError(
        list_problems(str(file), problems),
        allowed="the keys that `peml tasks schema` describes"
        + "; a suite lists such tasks, or {file: TASK.yaml}" * in_suite,
        action="Correct these and run `peml tasks check FILE`.",
    )
