"""The messages of a run before it starts, and the cautions on its scores at its end."""

from rich.console import Console

from peml.records.plan import Plan
from peml.reporting.cautions import tell_cautions
from peml.terminal import Column, print_table, print_warnings

_FEW_STEPS = 50
"""LoRAs on SmolLM2, with rates of 4e-4 to 2.5e-3, were no better than chance after 24 steps."""
_COUNTS = ("train", "development", "reported", "cut")
_COLUMNS = [
    Column("task"),
    Column("type", drop=2),
    Column("metric", drop=1),
    *(Column("dev." if name == "development" else name, right=True) for name in _COUNTS),
]


def print_plan(planned: Plan, console: Console, *, done: int | None = None) -> None:
    """Prints the plan of a run, and warnings about its data.

    `done` is the number of steps of earlier sessions, for a run that is continued; its plan is
    printed in short. None for a new run.
    """
    if done is None:
        rows = [
            [task.name, task.type, task.metric, *(f"{getattr(task, key):,}" for key in _COUNTS)]
            for task in planned.tasks
        ]
        print_table(console, _COLUMNS, rows)
        _print_size(planned, console)
    else:
        total = sum(planned.steps.values())
        console.print(f"continuing after step {done:,} of {total:,}", highlight=False)
    print_cautions(planned, console)


def print_cautions(plan: Plan, console: Console) -> None:
    """Prints warnings about leaked, cut and skipped rows."""
    print_warnings(tell_cautions(plan), console)


def _print_size(planned: Plan, console: Console) -> None:
    console.print(
        f"batches per epoch: {planned.batches_per_epoch:,}, "
        f"{planned.tokens_per_epoch:,} tokens, {planned.padding:.1%} padding",
        highlight=False,
    )
    groups = planned.trainable_parameters
    listed = ", ".join(f"{name} {count:,}" for name, count in groups.items())
    shown = f" ({listed})" if listed else ""
    console.print(f"trainable parameters: {sum(groups.values()):,}{shown}", highlight=False)
    steps = ", ".join(f"{name} {count:,}" for name, count in planned.steps.items())
    several = planned.batches_per_step
    each = f", of {several} batches each" if several > 1 else ""
    console.print(f"steps: {steps}{each}", highlight=False)
    total = sum(planned.steps.values())
    if 0 < total < _FEW_STEPS:
        text = (
            f"{total} steps are few: with fewer than {_FEW_STEPS}, a LoRA has often learned "
            "nothing yet. Raise training.epochs or lower batches.rows to take more."
        )
        print_warnings([text], console)
    for sentence in planned.start.sentences if planned.start is not None else ():
        console.print(sentence, highlight=False, markup=False)
    if planned.precision is not None:
        console.print(f"precision: {planned.precision.sentence}", highlight=False)
