"""Batches by token budget, rows of similar length together.

An epoch's batches depend only on the seed and the epoch, so the state of a stream is two integers,
and a resumed run draws the same batches.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peml.data.batch import IGNORED, StepBatches, TaskBatch
from peml.data.encoding import EncodedSplit
from peml.data.mixing import draw_rows, draw_seed, rows_per_epoch
from peml.data.planning import Batches, Sizes, plan_batches
from peml.data.rows import Indices, index_type
from peml.data.settings import BatchSettings
from peml.errors import CheckpointError


@dataclass(frozen=True)
class Collator:
    """Pads encoded rows into a `TaskBatch`.

    Generation with a decoder needs padding on the `left`. With `packs`, the model reads the rows of
    a batch as one sequence.
    """

    pad_token_id: int
    left: bool = False
    packs: bool = False

    def __call__(
        self, rows: dict[str, list[Any]], task_ids: Sequence[int], numbers: Indices
    ) -> TaskBatch:
        """Builds a batch.

        `rows` are columns of an `EncodedSplit`, one entry per example; `numbers` are their row
        numbers.
        """
        counts = np.array([len(example) for example in rows["input_ids"]])
        ids, mask = self._pad(rows["input_ids"], self.pad_token_id)
        labels = self._pad(rows["labels"], IGNORED)[0] if any(rows["labels"]) else None
        types = self._pad(rows["token_type_ids"], 0)[0] if any(rows["token_type_ids"]) else None
        weights = rows.get("weight", [])
        return TaskBatch(
            input_ids=ids,
            attention_mask=mask,
            targets=torch.tensor([t for example in rows["targets"] for t in example]),
            task_ids=torch.from_numpy(np.repeat(np.asarray(task_ids, np.int64), counts)),
            groups=torch.from_numpy(np.repeat(np.arange(len(counts)), counts)),
            rows=torch.from_numpy(numbers.astype(np.int64)),
            labels=labels,
            token_type_ids=types,
            weights=torch.tensor(weights) if set(weights) - {1.0} else None,
            packed=mask.flatten().nonzero()[:, 0] if self.packs and not mask.all() else None,
        )

    def _pad(self, nested: list[list[list[int]]], fill: int) -> tuple[Tensor, Tensor]:
        flat = [sequence for example in nested for sequence in example]
        lengths = np.array([len(sequence) for sequence in flat])
        width = int(lengths.max())
        columns = np.arange(width)
        real = columns >= width - lengths[:, None] if self.left else columns < lengths[:, None]
        padded = np.full((len(flat), width), fill, dtype=np.int64)
        padded[real] = np.concatenate([np.asarray(s, dtype=np.int64) for s in flat])
        return torch.from_numpy(padded), torch.from_numpy(real.astype(np.int64))


@dataclass
class _Ahead:
    """Batches that a thread reads ahead; without a thread, each is read when it is needed.

    The thread reads ``count`` batches ahead. This process takes every ``every``-th batch of the
    plan. ``pin`` puts batches in page-locked memory.
    """

    pool: ThreadPoolExecutor | None = None
    count: int = 0
    every: int = 1
    pin: bool = False
    reading: dict[tuple[int, int], Future[TaskBatch]] = field(default_factory=dict)

    def take(
        self, epoch: int, number: int, plan: Batches, fetch: Callable[[Indices], TaskBatch]
    ) -> TaskBatch:
        """Returns a planned batch, and starts to read the next ones of the epoch."""
        if self.pool is None:
            return fetch(plan[number])
        last = number + self.count * self.every
        for later in range(number, min(last + 1, len(plan)), self.every):
            if (epoch, later) not in self.reading:
                self.reading[epoch, later] = self.pool.submit(self._read, fetch, plan[later])
        return self.reading.pop((epoch, number)).result()

    def _read(self, fetch: Callable[[Indices], TaskBatch], numbers: Indices) -> TaskBatch:
        batch = fetch(numbers).with_facts()
        return batch.pinned() if self.pin else batch

    def cancel(self) -> None:
        """Forgets the batches that were read ahead."""
        for job in self.reading.values():
            job.cancel()
        self.reading.clear()


class BatchStream:
    """Training batches of all tasks, epoch after epoch.

    The state is ``{"epoch": int, "batch": int}``. A stream that loads it continues with the next
    batch.

    `splits` are the encoded train splits in the order of the task ids, `weights` the factors of the
    tasks' shares (default: 1). `epochs` is the length of the run, for annealed mixing;
    `batches_per_step` is for `BatchSettings.even_steps`.
    """

    def __init__(
        self,
        splits: Sequence[EncodedSplit],
        settings: BatchSettings,
        collate: Collator,
        *,
        seed: int,
        weights: Sequence[float] | None = None,
        epochs: float = 1.0,
        batches_per_step: int = 1,
    ) -> None:
        self.splits = list(splits)
        self.settings = settings
        self.collate = collate
        self.seed = seed
        self._weights = weights
        self._last_epoch = math.ceil(epochs) - 1
        sizes = [len(split) for split in splits]
        # Where the splits begin and end among the rows of all.
        self._starts = np.cumsum([0, *sizes], dtype=index_type(sum(sizes)))
        self._sizes: dict[str, Sizes] = {
            what: np.concatenate([getattr(split, what) for split in splits])
            if len(splits) > 1
            else getattr(splits[0], what)
            for what in ("lengths", "sequences", "tokens")
        }
        self._epoch = 0
        self._batch = 0
        self._planned: tuple[int, Batches] | None = None
        self._together = batches_per_step if settings.even_steps else 1
        self._begun = {0: 0}  # batches that an epoch's first step has from the epoch before
        self._ahead = _Ahead()

    @property
    def epoch(self) -> int:
        """The epoch, from 0, of the batch that `next` returned last."""
        return self._epoch

    def counts(self, epoch: int) -> list[int]:
        """Rows that an epoch draws from each task."""
        return rows_per_epoch(
            [len(split) for split in self.splits],
            self.settings.mixing,
            weights=self._weights,
            progress=min(1.0, epoch / max(1, self._last_epoch)),
        )

    def plan(self, epoch: int) -> Batches:
        """The batches of an epoch, as numbers of rows among those of all splits."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = None  # frees the old plan first
            self._planned = (epoch, self._plan(epoch))
        return self._planned[1]

    def _plan(self, epoch: int) -> Batches:
        earlier = [self.counts(past) for past in range(epoch)]
        numbers = np.concatenate(
            [
                self._starts[task]
                + draw_rows(task, len(split), sum(past[task] for past in earlier), count, self.seed)
                for task, (split, count) in enumerate(
                    zip(self.splits, self.counts(epoch), strict=True)
                )
            ]
        )
        rng = np.random.default_rng((self.seed, epoch))
        rng.shuffle(numbers)
        if self._together > 1 and epoch not in self._begun:
            self._plan(epoch - 1)
        begun = self._begun.get(epoch, 0)
        batches = plan_batches(
            self._sizes["lengths"][numbers],
            self._sizes["sequences"][numbers],
            self.settings.tokens,
            self.settings.rows,
            self.settings.pool,
        ).shuffled(rng, self._together, begun)
        self._begun[epoch + 1] = (begun + len(batches)) % self._together
        return batches.of(numbers)

    def locate(self, numbers: Indices) -> tuple[Indices, Indices]:
        """Task and row number of each example of a planned batch, both (examples,)."""
        tasks = np.searchsorted(self._starts, numbers, side="right") - 1
        return tasks, numbers - self._starts[tasks]

    def padded(self, epoch: int = 0) -> list[int]:
        """Input tokens of each batch of an epoch, padding included."""
        lengths, sequences = self._sizes["lengths"], self._sizes["sequences"]
        return [
            int(sequences[batch].sum()) * int(lengths[batch].max()) for batch in self.plan(epoch)
        ]

    def padding(self, epoch: int = 0) -> float:
        """Share of padding in the input tokens of an epoch."""
        padded = sum(self.padded(epoch))
        return 1 - self.tokens(epoch) / padded if padded else 0.0

    def tokens(self, epoch: int = 0) -> int:
        """Input tokens of an epoch, without padding."""
        return sum(int(self._sizes["tokens"][batch].sum()) for batch in self.plan(epoch))

    def next(self) -> TaskBatch:
        """The next batch, of the next epoch if this one has ended."""
        return self.next_step(1).batches[0]

    def next_step(self, count: int, part: slice = slice(None)) -> StepBatches:
        """The next batches, which may be of two epochs.

        `part` says which of them to read; the others are read by other processes.
        """
        mine = range(count)[part]
        step = StepBatches([], [], [], 0, {})
        for number in range(count):
            if self._batch >= len(self.plan(self._epoch)):
                self._epoch, self._batch = self._epoch + 1, 0
            plan = self.plan(self._epoch)
            numbers = plan[self._batch]
            tasks, _ = self.locate(numbers)
            step.examples.append(len(numbers))
            step.tokens += int(self._sizes["tokens"][numbers].sum())
            for task, of_task in zip(*np.unique(tasks, return_counts=True), strict=True):
                step.task_rows[int(task)] = step.task_rows.get(int(task), 0) + int(of_task)
            if number in mine:
                place = (self._epoch, self._batch)
                step.batches.append(self._ahead.take(*place, plan, self.fetch))
                step.seeds.append(draw_seed(0, self.seed, *place) if count > 1 else None)
            self._batch += 1
        return step

    @contextmanager
    def prefetching(self, count: int, *, every: int = 1, pin: bool = False) -> Iterator[None]:
        """Lets a thread read the next batches of the epoch while the block computes.

        Order and state are those of a stream that reads at the last moment.

        `count` batches are read ahead. `every` is the number of processes that take the batches in
        turn; `pin` puts them in page-locked memory, for copies to a GPU.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="peml-batches") as pool:
            self._ahead = _Ahead(pool, count, every=every, pin=pin)
            try:
                yield
            finally:
                self._ahead.cancel()
                self._ahead = _Ahead()

    def fetch(self, numbers: Indices) -> TaskBatch:
        """Reads and pads a planned batch, without changing the stream's position."""
        tasks, rows = self.locate(numbers)
        columns: dict[str, list[Any]] = {}
        order = np.argsort(tasks, kind="stable")
        for task in np.unique(tasks):
            fetched = self.splits[task].rows.read(rows[order][tasks[order] == task])
            for name, values in fetched.items():
                columns.setdefault(name, []).extend(values)
        return self.collate(columns, tasks[order].tolist(), rows[order])

    def state_dict(self) -> dict[str, int]:
        """The position of the stream."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the position of a stream of the same data."""
        self._ahead.cancel()
        epoch, batch = state["epoch"], state["batch"]
        if batch > len(self.plan(epoch)):
            raise CheckpointError(
                f"the checkpoint is at batch {batch} of epoch {epoch}, "
                f"but the data gives only {len(self.plan(epoch))} batches",
                action="the data changed since the run began; start a new run folder",
            )
        self._epoch, self._batch = epoch, batch


def evaluation_batches(
    split: EncodedSplit, task_id: int, tokens: int, collate: Collator, part: slice = slice(None)
) -> Iterator[TaskBatch]:
    """All rows of one task's split, longest first, within a token budget that counts padding.

    `part` says which of the batches; default: all.
    """
    for batch in plan_batches(split.lengths, split.sequences, tokens)[part]:
        yield collate(split.rows.read(batch), [task_id] * len(batch), batch)
