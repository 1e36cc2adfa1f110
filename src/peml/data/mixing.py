"""The number of rows that an epoch draws from each task, and which rows.

Sources: T5 (proportional and capped mixing), seqio (temperature mixing with a cap before the
power), Stickland and Murray (arXiv 1902.02671, annealed mixing).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from peml.data.rows import Indices, index_type
from peml.errors import ConfigError, nearest
from peml.settings import Settings


class MixingSettings(Settings):
    """The shares of the tasks in an epoch."""

    strategy: Literal["proportional", "square-root", "temperature", "annealed", "uniform"] = (
        "proportional"
    )
    """The share of a task in an epoch is proportional to min(rows, cap)^power. proportional: power
    1, every row once per epoch; square-root: 1/2; temperature: 1 / temperature; annealed: from 1 in
    the first epoch to final_power in the last; uniform: 0, equal shares."""
    temperature: float = Field(2.0, ge=1)
    """Larger values make the shares more equal; 1 is proportional."""
    final_power: float = Field(0.2, description="annealed: power in the last epoch.", ge=0, le=1)
    cap: int | None = Field(None, ge=1)
    """Maximum rows that a task counts for, applied before the power."""
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Task name: factor of its share; 1 for tasks not named."""

    def power(self, progress: float) -> float:
        """The power of the row counts that shares are proportional to.

        `progress` is 0 in the first epoch, 1 in the last.
        """
        powers = {
            "proportional": 1.0,
            "square-root": 0.5,
            "temperature": 1 / self.temperature,
            "annealed": 1 - (1 - self.final_power) * progress,
            "uniform": 0.0,
        }
        return powers[self.strategy]


def task_weights(
    weights: Mapping[str, float], names: Sequence[str], field: str = "batches.mixing.weights"
) -> list[float]:
    """Weights in the order of the tasks, 1 for those without.

    Raises:
        ConfigError: A weight names a task that doesn't exist.
    """
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise ConfigError(
            "\n".join(
                f"{field}: there is no task {name!r}.{nearest(name, names)}" for name in unknown
            ),
            allowed=", ".join(names),
            action="correct the names",
        )
    return [weights.get(name, 1.0) for name in names]


def rows_per_epoch(
    sizes: Sequence[int],
    settings: MixingSettings,
    *,
    weights: Sequence[float] | None = None,
    progress: float = 0.0,
) -> list[int]:
    """Rows drawn from each task in one epoch.

    An epoch has as many rows as all tasks (capped) together. Counts are rounded by largest
    remainder, and every task with rows gets at least one.

    `sizes` are the train rows of each task, `weights` the factors of their shares (default: 1),
    `progress` is 0 in the first epoch and 1 in the last.
    """
    capped = np.array([min(size, settings.cap or size) for size in sizes], dtype=np.float64)
    if not capped.any():
        return [0] * len(sizes)
    shares = capped ** settings.power(progress) * np.array(weights or [1.0] * len(sizes))
    shares[capped == 0] = 0  # a task without train rows is evaluated only
    total = int(capped.sum())
    # Removes floating-point errors, so that whole shares stay whole.
    exact = np.round(shares / shares.sum() * total, 9)
    counts = np.floor(exact).astype(int)
    missing = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return [max(min(1, size), int(count)) for size, count in zip(sizes, counts, strict=True)]


def draw_rows(task_id: int, size: int, first: int, count: int, seed: int) -> Indices:
    """The rows of one task in one epoch, (count,); earlier epochs drew ``first`` rows.

    Rows are taken from seeded permutations of all rows, one after another. So even across epochs, a
    row repeats only after all others were drawn.
    """
    kind = index_type(size)
    if count == 0:
        return np.empty(0, dtype=kind)
    last = first + count
    rounds = range(first // size, (last - 1) // size + 1)
    laps = []
    for lap in rounds:
        rows = np.arange(size, dtype=kind)
        np.random.default_rng((seed, task_id, lap)).shuffle(rows)
        laps.append(rows)
    offset = first - rounds.start * size
    return np.concatenate(laps)[offset : offset + count]


def draw_seed(*numbers: int) -> int:
    """A seed that depends on all of the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
