"""Batches by token budget, rows of similar length together.

An epoch's batches are a pure function of the seed and the epoch, so a stream's whole state is
two integers, and a killed run draws the same batches again. Adaptive shares are the exception:
what they were in each epoch is part of the state.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from peml.data.batch import TaskBatch
from peml.data.encoding import EncodedSplit
from peml.data.mixing import Indices, draw_rows, rows_per_epoch
from peml.data.rows import index_type
from peml.data.settings import BatchSettings
from peml.errors import CheckpointError

Sizes = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class Collator:
    """Pads encoded rows into a `TaskBatch`.

    Attributes:
        pad_token_id: Fills `input_ids`.
        left: Pad on the left, which generation with a decoder needs.
    """

    pad_token_id: int
    left: bool = False

    def __call__(
        self, rows: dict[str, list[Any]], task_ids: Sequence[int], numbers: Indices
    ) -> TaskBatch:
        """Builds a batch.

        Args:
            rows: Columns of an `EncodedSplit`, one entry an example.
            task_ids: Task of each example.
            numbers: Row number of each example.
        """
        counts = torch.tensor([len(example) for example in rows["input_ids"]])
        ids, mask = self._pad(rows["input_ids"], self.pad_token_id)
        labels = self._pad(rows["labels"], -100)[0] if any(rows["labels"]) else None
        types = self._pad(rows["token_type_ids"], 0)[0] if any(rows["token_type_ids"]) else None
        weights = rows.get("weight", [])
        return TaskBatch(
            input_ids=ids,
            attention_mask=mask,
            targets=torch.tensor([t for example in rows["targets"] for t in example]),
            task_ids=torch.tensor(task_ids).repeat_interleave(counts),
            groups=torch.arange(len(counts)).repeat_interleave(counts),
            rows=torch.from_numpy(numbers.astype(np.int64)),
            labels=labels,
            token_type_ids=types,
            weights=torch.tensor(weights) if set(weights) - {1.0} else None,
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


class Batches(Sequence[Indices]):
    """Numbers cut into batches and held end to end, two arrays whatever the number of batches.

    Args:
        numbers: Of the examples, batch after batch, (examples,).
        bounds: Where each batch begins among them, and where the last ends, (batches + 1,).
    """

    def __init__(self, numbers: Indices, bounds: Indices) -> None:
        self.numbers = numbers
        self.bounds = bounds

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, index: int) -> Indices: ...
    @overload
    def __getitem__(self, index: slice) -> list[Indices]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return self.numbers[self.bounds[number] : self.bounds[number + 1]]

    def of(self, values: Indices) -> Batches:
        """The same batches with a value of each example in place of its number."""
        return Batches(values[self.numbers], self.bounds)

    def shuffled(self, rng: np.random.Generator) -> Batches:
        """The same batches in another order."""
        turn = rng.permutation(len(self))
        sizes = np.diff(self.bounds)[turn]
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        moved = (self.bounds[turn] - bounds[:-1]).astype(self.numbers.dtype)
        places = np.arange(len(self.numbers), dtype=self.numbers.dtype) + np.repeat(moved, sizes)
        return Batches(self.numbers[places], bounds)


def plan_batches(
    lengths: Sizes, sequences: Sizes, settings: BatchSettings, rng: np.random.Generator | None
) -> Batches:
    """Cuts examples into batches within the budget.

    Examples are taken in pools in the given order; each pool is sorted by length and cut from
    the longest down. With ``rng`` the batches are shuffled, else their order is kept.

    Args:
        lengths: Longest sequence of each example, (examples,).
        sequences: Sequences of each example, (examples,).
        settings: Budget; an example that exceeds it alone is a batch of its own.
        rng: Shuffles the batches.
    """
    order = np.empty(len(lengths), dtype=index_type(len(lengths)))
    bounds = array("q")
    pool_rows = settings.pool * settings.rows
    for start in range(0, len(lengths), pool_rows):
        pool = order[start : start + pool_rows]
        pool[:] = start + np.argsort(-lengths[start : start + pool_rows], kind="stable")
        cut = _cut(lengths[pool].tolist(), sequences[pool].tolist(), settings)
        bounds.extend(start + first for first in cut)
    bounds.append(len(order))
    batches = Batches(order, np.frombuffer(bounds, dtype=np.int64))
    return batches if rng is None else batches.shuffled(rng)


def _cut(lengths: list[int], sequences: list[int], settings: BatchSettings) -> Iterator[int]:
    """Where batches begin among examples of which the longest come first."""
    first = held = 0
    yield first
    for position, count in enumerate(sequences):
        over = (held + count) * lengths[first] > settings.tokens
        if position > first and (over or position - first >= settings.rows):
            yield position
            first, held = position, 0
        held += count


class BatchPlan(Sequence[tuple[Indices, Indices]]):
    """The batches of an epoch, each (task ids, row numbers).

    Args:
        tasks: Task of each example, in batches.
        rows: Its row number, in the same batches.
    """

    def __init__(self, tasks: Batches, rows: Batches) -> None:
        self._tasks, self._rows = tasks, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> tuple[Indices, Indices]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Indices, Indices]]: ...
    def __getitem__(self, index: Any) -> Any:
        held = self._tasks[index], self._rows[index]
        return list(zip(*held, strict=True)) if isinstance(index, slice) else held


class BatchStream:
    """Training batches of all tasks, epoch after epoch.

    The state after any batch is ``{"epoch": int, "batch": int}``, and ``adaptive`` where shares
    follow the development losses; a stream that loads it goes on with the very next batch.

    Args:
        splits: Encoded train splits in the order of the task ids.
        settings: Batching and mixing.
        collate: Pads rows.
        seed: Decides the order.
        weights: What each task's share is multiplied with; default: 1.
        epochs: Length of the run, which annealed mixing spans.
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
    ) -> None:
        self.splits = list(splits)
        self.settings = settings
        self.collate = collate
        self.seed = seed
        self._weights = weights or [1.0] * len(self.splits)
        self.adaptive = settings.mixing.adaptive_shares(len(self.splits))
        self._last_epoch = math.ceil(epochs) - 1
        sizes = [len(split) for split in splits]
        self._offsets = np.cumsum([0, *sizes[:-1]])
        self._sizes = {
            what: _end_to_end([getattr(split, what) for split in splits])
            for what in ("lengths", "sequences", "tokens")
        }
        self._epoch = 0
        self._batch = 0
        self._planned: tuple[int, BatchPlan] | None = None

    def counts(self, epoch: int) -> list[int]:
        """Rows an epoch draws from each task; as things stand, where shares are adaptive."""
        weights = self._weights
        if self.adaptive is not None:
            factors = self.adaptive.factors(epoch)
            weights = [weight * factor for weight, factor in zip(weights, factors, strict=True)]
        return rows_per_epoch(
            [len(split) for split in self.splits],
            self.settings.mixing,
            weights=weights,
            progress=min(1.0, epoch / max(1, self._last_epoch)),
        )

    def plan(self, epoch: int) -> BatchPlan:
        """The batches of an epoch, each (task ids, row numbers)."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = None  # two plans would be held otherwise
            self._planned = (epoch, self._plan(epoch))
        return self._planned[1]

    def _plan(self, epoch: int) -> BatchPlan:
        earlier = [self.counts(past) for past in range(epoch)]
        drawn = [
            draw_rows(task, len(split), sum(past[task] for past in earlier), count, self.seed)
            for task, (split, count) in enumerate(zip(self.splits, self.counts(epoch), strict=True))
        ]
        numbers = np.arange(len(drawn), dtype=index_type(len(drawn)))
        tasks = np.repeat(numbers, [len(rows) for rows in drawn])
        rows = np.concatenate(drawn)
        del drawn  # with millions of rows, every array of an epoch counts
        rng = np.random.default_rng((self.seed, epoch))
        order = np.arange(len(rows), dtype=index_type(len(rows)))
        rng.shuffle(order)
        tasks, rows = tasks[order], rows[order]
        del order
        lengths = self._of("lengths", tasks, rows)
        batches = plan_batches(lengths, self._of("sequences", tasks, rows), self.settings, rng)
        return BatchPlan(batches.of(tasks), batches.of(rows))

    def _of(self, what: str, tasks: Indices, rows: Indices) -> Sizes:
        """``lengths``, ``sequences`` or ``tokens`` of examples of many tasks, (examples,)."""
        return self._sizes[what][self._offsets[tasks] + rows]

    def padding(self, epoch: int = 0) -> float:
        """Share of padding among all input tokens of an epoch."""
        padded = 0
        for tasks, rows in self.plan(epoch):
            padded += int(self._of("sequences", tasks, rows).sum()) * int(
                self._of("lengths", tasks, rows).max()
            )
        return 1 - self.tokens(epoch) / padded if padded else 0.0

    def tokens(self, epoch: int = 0) -> int:
        """Real input tokens of an epoch."""
        return sum(int(self._of("tokens", *batch).sum()) for batch in self.plan(epoch))

    def next(self) -> TaskBatch:
        """The next batch, going on into the next epoch."""
        if self._batch >= len(self.plan(self._epoch)):
            self._epoch, self._batch = self._epoch + 1, 0
            if self.adaptive is not None:
                self.adaptive.begin_epoch()
                self._planned = None
        tasks, rows = self.plan(self._epoch)[self._batch]
        self._batch += 1
        return self.fetch(tasks, rows)

    def fetch(self, tasks: Indices, rows: Indices) -> TaskBatch:
        """Reads and pads a planned batch; the stream's position stays."""
        columns: dict[str, list[Any]] = {}
        order = np.argsort(tasks, kind="stable")
        for task in np.unique(tasks):
            fetched = self.splits[task].rows.read(rows[order][tasks[order] == task])
            for name, values in fetched.items():
                columns.setdefault(name, []).extend(values)
        return self.collate(columns, tasks[order].tolist(), rows[order])

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        adaptive = {} if self.adaptive is None else {"adaptive": self.adaptive.state_dict()}
        return {"epoch": self._epoch, "batch": self._batch, **adaptive}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where another stream of the same data stood."""
        if self.adaptive is not None:
            self.adaptive.load_state_dict(state["adaptive"])
            self._planned = None
        epoch, batch = state["epoch"], state["batch"]
        if batch > len(self.plan(epoch)):
            raise CheckpointError(
                f"the checkpoint stands at batch {batch} of epoch {epoch}, "
                f"but the data gives only {len(self.plan(epoch))} batches",
                action="the data changed since the run began; start a new run folder",
            )
        self._epoch, self._batch = epoch, batch


def evaluation_batches(
    split: EncodedSplit, task_id: int, tokens: int, collate: Collator
) -> Iterator[TaskBatch]:
    """All rows of one task's split, longest first, within a token budget."""
    settings = BatchSettings(tokens=tokens, rows=len(split), pool=1)
    for batch in plan_batches(split.lengths, split.sequences, settings, None):
        yield collate(split.rows.read(batch), [task_id] * len(batch), batch)


def _end_to_end(sizes: Sequence[Sizes]) -> Sizes:
    return sizes[0] if len(sizes) == 1 else np.concatenate(sizes)
