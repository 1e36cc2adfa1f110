r"""What if a context showed another task's solved rows? The control of `masked` contexts.

Runs one method of a comparison, seed by seed, on the very rows on which the comparison trains,
chooses and reports, but each task's context holds the solved rows of the next task, in that task's
template. `context_controls.py` does the same, and more, for contexts that aren't trained on.

    python benchmarks/context_other_task.py benchmarks/studies/contexts_16.yaml OUT \
        --method masked --seeds 0 1 2 --set tuning=null \
        --set run.tasks.source=FOLDER --set run.training.learning_rate_factor=2.5
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console

from peml.comparison.settings import load_comparison
from peml.methods.context import held, part
from peml.models import TaskModel
from peml.run.pipeline import fit
from peml.tasks import Task

_read_tokens = part._read_tokens


class OtherTasksContext(part.ContextPart):
    """Contexts in which no row meets itself: they show rows of another task."""

    def use_rows(self, *_: Any, **__: Any) -> None:
        """Does nothing: no row has to be masked."""


def next_tasks_tokens(model: TaskModel, task: Task) -> list[int]:
    """The tokens of the next task's context."""
    place = model.tasks.index(task) + 1
    return _read_tokens(model, model.tasks[place % len(model.tasks)])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the seeds; a stopped run is continued."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path, help="a comparison whose method has a context")
    parser.add_argument("out", type=Path, help="a run folder per seed is made in it")
    parser.add_argument("--method", required=True, help="its label")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    arguments = parser.parse_args(argv)
    config = load_comparison(arguments.study, arguments.set)
    suite, method = next(iter(config.suites)), config.methods[arguments.method]
    with (
        mock.patch.object(part, "_read_tokens", next_tasks_tokens),
        mock.patch.object(held, "ContextPart", OtherTasksContext),
    ):
        for seed in arguments.seeds:
            run = fit(
                config.run_config(suite, method, seed=seed),
                arguments.out / f"seed{seed}",
                Console(),
            )
            print(f"seed {seed}: {run.results.mean:.3f}", flush=True)


if __name__ == "__main__":
    main()
