"""Checks every row of a task or suite: counts, labels, lengths, leakage."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console

from peml.data.inspection import TaskInspection, inspect_task
from peml.data.leakage import find_leakage, find_shared_texts
from peml.data.sources import TaskData
from peml.errors import PemlError, TaskError
from peml.evaluation import refuse_unscorable
from peml.models import Family
from peml.records.plan import LeakageEntry
from peml.tasks import SOURCE_ROW, Task, TaskRenderer, load_definition
from peml.terminal import Column, print_table, print_warnings

_COLUMNS = (
    Column("task"),
    Column("train", right=True),
    Column("reported", right=True),
    Column("labels", fold=True),
)
_TOKEN_COLUMNS = (Column("tokens: median / 95 % / longest", drop=1), Column("cut", right=True))


def check_tasks(
    file: str,
    source: str | None,
    family: Family | None,
    *,
    hub: bool,
    max_leakage: float | None,
    console: Console,
) -> bool:
    """Prints counts, labels, lengths and leakage; returns whether leakage is within the limit.

    With a `family`, tokens are counted. `max_leakage` is the largest allowed share of a task's
    reported rows that are train rows; None: no limit. A task that can't be used raises its error.
    """
    tasks = _read_tasks(file)
    checked, problems = _inspect(tasks, source, family, hub=hub, console=console)
    leaks = find_leakage(checked)
    for what, are, found in (
        ("Leakage", "are in", leaks),
        ("Note", "share a text with", find_shared_texts(checked)),
    ):
        for leak in found:
            console.print(
                f"{what}: {leak.rows} of {leak.evaluation_rows} {leak.split} rows of "
                f"{leak.evaluation} {are} the train rows of {leak.train}."
            )
    _raise_problems(file, problems, len(tasks))
    return max_leakage is None or _bears(leaks, max_leakage, console)


def _inspect(
    tasks: Sequence[Task], source: str | None, family: Family | None, *, hub: bool, console: Console
) -> tuple[list[TaskData], list[PemlError]]:
    """Shows each task's figures; returns the rows of the usable tasks, and the errors."""
    columns = [*_COLUMNS, *(_TOKEN_COLUMNS if family else ()), Column("state", fold=True)]
    rows: list[list[str]] = []
    problems: list[PemlError] = []
    checked: list[TaskData] = []
    asked: list[str] = []
    notes: list[str] = []
    for task in tasks:
        cells = ["-"] * (len(columns) - 2) + ["definition is valid; hub rows not loaded"]
        if hub or source is not None or task.source.hub is None:
            try:
                fits = family is not None and task.type in family.task_types
                if family is not None and task.chat is not None:
                    family.check_chat(task)
                found = inspect_task(task, source, or_hub=hub, family=family if fits else None)
                _check_metrics(found.data)
                cells = [*_describe(found, with_tokens=family is not None), "good"]
                checked.append(found.data)
                asked.extend(_spell_answers(found))
                notes.extend(found.notes)
            except PemlError as error:
                problems.append(error)
                cells[-1] = f"problem {len(problems)} below"
        rows.append([task.name, *cells])
    print_table(console, columns, rows)
    if asked:
        heading = "The first reported row: the prompt's end, and each answer's tokens"
        console.print(heading, style="italic")
    for line in asked:
        console.print(line, soft_wrap=True)
    for note in notes:
        console.print(f"Note: {note}.", soft_wrap=True)
    return checked, problems


def _check_metrics(data: TaskData) -> None:
    renderer = TaskRenderer(data.task)
    gold = [renderer.gold(row, number) for number, row in enumerate(data.reported)]
    numbers = data.reported.column(SOURCE_ROW)
    refuse_unscorable(data.task, gold, numbers, data.origin.reported)


def _bears(leaks: Sequence[LeakageEntry], most: float, console: Console) -> bool:
    """Whether leakage is within the limit in all tasks; prints the tasks where it isn't."""
    shares = {leak.evaluation: (leak.anywhere, leak.evaluation_rows) for leak in leaks}
    leaking = {name: (part, whole) for name, (part, whole) in shares.items() if part / whole > most}
    texts = [
        f"{part} of {whole} reported rows of {name} ({part / whole:.1%}) are "
        f"train rows, more than --max-leakage {most:g}: its score would be too high."
        for name, (part, whole) in leaking.items()
    ]
    print_warnings(texts, console)
    if leaking:
        console.print(
            "Correct the files, or remove such rows from training (tasks.leakage: drop in the "
            "run's config) and pass --allow-leakage here."
        )
    return not leaking


def _read_tasks(file: str) -> tuple[Task, ...]:
    found = load_definition(file)
    return (found,) if isinstance(found, Task) else found.tasks


def _raise_problems(file: str, problems: list[PemlError], tasks: int) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        listed = "\n".join(f"  {number}. {p}" for number, p in enumerate(problems, start=1))
        raise TaskError(f"{file}: {len(problems)} of {tasks} tasks have problems.\n{listed}")


def _describe(found: TaskInspection, *, with_tokens: bool) -> list[str]:
    data, tokens = found.data, found.tokens
    cells = [str(len(data.train)), str(len(data.reported)), _distribution(data.task, found.labels)]
    if not with_tokens:
        return cells
    if tokens is None:
        return [*cells, "not for this model", "-"]
    return [*cells, f"{tokens.median} / {tokens.high} / {tokens.longest}", str(tokens.cut)]


def _spell_answers(found: TaskInspection) -> Iterator[str]:
    answers = found.answers
    if answers is not None:
        listed = [" ".join(tokens) for tokens in answers.answers]
        listed += [f"{answers.more} more"] if answers.more else []
        yield f"{found.data.task.name}: {answers.tail!r} -> {' | '.join(listed)}"


def _distribution(task: Task, labels: Sequence[int | float | str]) -> str:
    if task.type.generates:
        mean = sum(len(str(label)) for label in labels) / len(labels)
        return f"targets of {mean:.0f} characters on average"
    if task.type.has_scale:
        scores = [float(label) for label in labels]
        mean = sum(scores) / len(scores)
        return f"{min(scores):g} to {max(scores):g}, mean {mean:.2f}"
    counts = Counter(labels)
    names = task.labels or tuple(str(index) for index in range(int(max(counts)) + 1))
    return ", ".join(f"{name}: {counts[index]}" for index, name in enumerate(names))
