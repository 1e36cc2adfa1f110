"""The contexts as a part of a method: computes their keys and values for the rows of a batch."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.data.solved import SolvedRows
from peml.errors import ModelError
from peml.injection.contexts import ALL_TASKS, Contexts
from peml.injection.inject import PrefixInjection
from peml.injection.probe import in_eval_mode
from peml.injection.rows import read_rows
from peml.methods.base import ParameterGroup, Part
from peml.methods.context.correction import Correction
from peml.methods.context.faithful import refuse_too_long, refuse_unfaithful
from peml.methods.context.network import ContextNetwork
from peml.methods.context.own import Compute, OwnRows
from peml.methods.context.settings import ContextSettings
from peml.models import TaskModel
from peml.prefix.prefix import Prefix
from peml.tasks import Shots, Task, TaskRenderer

_KEPT = 64
"""Most contexts without some of their rows that are kept, if the frozen model computes them."""


class ContextPart(nn.Module, Part):
    """Holds each task's context in front of its rows.

    A decoder's context takes the positions before the rows' first, -n to -1, so the rows' own
    positions don't move. An encoder's context is read by itself, from position 0: its tokens don't
    see the rows.

    If the frozen model computes the contexts, `model` has no other parts yet.

    Attributes:
        tokens: Token ids of each task's context; all the same if they share one.

    Raises:
        ModelError: A context is too long, or the model would answer differently than with the text
            in front of a row.
    """

    name = "context"

    def __init__(
        self, model: TaskModel, injection: PrefixInjection, settings: ContextSettings
    ) -> None:
        super().__init__()
        self.injection = injection
        self.tokens = [_read_tokens(model, task) for task in model.tasks]
        self._settings = settings
        # in lists, so that they don't become submodules
        self._holders = [model]
        self._on_top: list[Correction | ContextNetwork] = []
        self._solved: SolvedRows | None = None  # set if rows are drawn anew
        self._own: OwnRows | None = None  # set if shown rows are trained on
        self._without_update: Callable[[], AbstractContextManager[None]] = nullcontext
        self._frozen: dict[int, Prefix] = {}
        self._last: dict[int, tuple[list[str], Prefix]] = {}  # drawn for an epoch
        refuse_too_long(model, injection, max(map(len, self.tokens)))
        if self._is_causal:
            self._check()
        if settings.of == "frozen":
            with torch.no_grad():
                self._frozen = {
                    task: self._compute(self.tokens[task]) for task in self._contexts_of(None)
                }

    def prepare(self, batch: TaskBatch | None = None) -> None:
        """Puts the contexts of the batch's tasks in front of its rows; None: of all tasks."""
        if self._solved is not None and self.training and batch is not None:
            self._set(self._drawn(batch))
            return
        tasks = self._contexts_of(batch)
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            held = self._contexts(tasks)
            if self._own is not None and self.training and batch is not None:
                self._set(*self._own.leave_out(batch, held))
            else:
                self._set(held)

    def _contexts_of(self, batch: TaskBatch | None) -> list[int]:
        if self._settings.scope == "shared":
            return [ALL_TASKS]
        tasks = list(range(len(self.tokens)))
        if batch is None:
            return tasks
        # The model's routing refuses ids of unknown tasks.
        return [task for task in tasks if task in batch.known.task_rows]

    def correct(self, correction: Correction | ContextNetwork) -> None:
        """Adds a correction to the contexts; it is a separate part."""
        self._on_top = [correction]

    def use_rows(
        self,
        solved: SolvedRows | None,
        *,
        without_update: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Lets training draw other solved rows, or train on those that are shown.

        Raises:
            DataError: A task has too few rows.
            ModelError: There are no rows, or the longest are too long.
        """
        settings = self._settings
        if settings.draw == "once" and settings.leave_one_out is None:
            return
        if solved is None:
            raise ModelError(
                f"method.context.draw is {settings.draw!r} and leave_one_out is "
                f"{settings.leave_one_out!r}, and there are no train rows",
                allowed="an AttachContext with solved rows",
                action="train with peml fit, or set draw: once and no leave_one_out",
            )
        self._without_update = without_update
        if settings.draw != "once":
            self._draw_from(solved)
        else:
            model = self._holders[0]
            compute: Compute | None = None
            if settings.leave_one_out == "exact":
                compute = self._compute_others
                if settings.of == "frozen":
                    compute = lru_cache(_KEPT)(compute)
            self._own = OwnRows(model.tasks, solved, model.family.context_tokens, compute)

    def _draw_from(self, solved: SolvedRows) -> None:
        solved.refuse_too_few(self._settings.shots)
        self._solved = solved
        for task in range(len(self.tokens)):
            longest = solved.longest(task, self._settings.shots)
            if longest:  # else the task is evaluated only
                self._tokens_of(task, longest)

    def _drawn(self, batch: TaskBatch) -> dict[int, Prefix]:
        assert self._solved is not None
        shots, draw = self._settings.shots, self._settings.draw
        balanced = self._settings.choose == "balanced"
        assert draw != "once"
        present: dict[int, set[int]] = {}
        for task, row in batch.known.examples:
            present.setdefault(task, set()).add(row)
        held = {}
        for task, rows in sorted(present.items()):
            texts = self._solved.draw(task, shots, rows, each=draw, balanced=balanced)
            last, context = self._last.get(task, ([], None))
            if context is None or last != texts:
                context = self._compute_others(task, texts)
            if self._settings.of == "frozen" and draw == "epoch":
                self._last[task] = (texts, context)
            held[task] = context
        return held

    def _compute_others(self, task: int, examples: Sequence[str]) -> Prefix:
        """A task's context with other solved rows, by the frozen or the adapted model."""
        tokens = self._tokens_of(task, examples)
        if self._settings.of == "adapted":
            return self._compute(tokens, task)
        with torch.no_grad(), self._without_update():
            return self._compute(tokens, task)

    def _tokens_of(self, task: int, examples: Sequence[str]) -> list[int]:
        model = self._holders[0]
        shots = {"shots": Shots(examples=tuple(examples))}
        tokens = _read_tokens(model, model.tasks[task].model_copy(update=shots))
        refuse_too_long(model, self.injection, len(tokens))
        return tokens

    def _set(self, held: dict[int, Prefix], ids: Callable[[int], Tensor] | None = None) -> None:
        self.injection.set_contexts(Contexts(held, ids or self._holders[0].routing.rows))

    def _contexts(self, tasks: Sequence[int]) -> dict[int, Prefix]:
        if self._settings.of == "frozen":
            held = {task: self._frozen[task] for task in tasks}
        else:
            held = {task: self._compute(self.tokens[task], task) for task in tasks}
        for correction in self._on_top:
            # A context that all tasks share has the id -1 and the correction 0.
            held = {task: correction.add(max(task, 0), prefix) for task, prefix in held.items()}
        return held

    def _compute(self, tokens: Sequence[int], task: int = 0) -> Prefix:
        """The model's keys and values of a text, with gradients if they are enabled."""
        model = self._holders[0]
        ids = torch.tensor([tokens], device=model.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self._is_causal:
            inputs["position_ids"] = torch.arange(-len(tokens), 0, device=model.device)[None]
        model.routing.one_task(max(task, 0), model.device)

        def run() -> None:
            model.backbone.base_model(**inputs)

        # Without dropout, and without checkpointing, whose first pass has no graph.
        with in_eval_mode(model.backbone):
            rows = read_rows(self.injection, run, gradients=True)
        return Prefix(rows, (True,) * len(rows))

    @property
    def _is_causal(self) -> bool:
        return all(site.causal for site in self.injection.sites)

    def _check(self) -> None:
        model = self._holders[0]
        longest = max(self.tokens, key=len)

        def hold(tokens: Sequence[int]) -> None:
            self._set({0: self._compute(tokens)})
            model.routing.one_task(0, model.device)

        with torch.no_grad(), in_eval_mode(model.backbone):
            refuse_unfaithful(model, longest, hold)
        self.injection.set_contexts(None)

    def groups(self) -> list[ParameterGroup]:
        """Empty: contexts are computed, and their correction is a separate part."""
        return []

    def disabled(self) -> AbstractContextManager[None]:
        return self.injection.without_contexts()

    def static_contexts(self) -> dict[int, Prefix]:
        with torch.no_grad():
            held = self._contexts(self._contexts_of(None))
        return {task: prefix.detached() for task, prefix in held.items()}


def _read_tokens(model: TaskModel, task: Task) -> list[int]:
    return model.family.context_tokens(TaskRenderer(task).context())
