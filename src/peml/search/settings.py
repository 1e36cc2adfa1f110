"""Options of the search, as they are written in a config."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from peml.prefix.shape import PrefixShape
from peml.prefix.space import SearchSpace
from peml.settings import Settings

if TYPE_CHECKING:
    from peml.search.budget import Budget

RelaxationName = Literal["softmax", "gumbel", "sampled-path"]


class TemperatureSchedule(Settings):
    """The temperature from the first to the last step in which the decisions move."""

    start: float = Field(1.0, description="Temperature until the end of the warm-up.", gt=0)
    end: float = Field(0.1, description="Temperature at the last step before the cool-down.", gt=0)

    @model_validator(mode="after")
    def _falling(self) -> TemperatureSchedule:
        if self.end > self.start:
            raise ValueError(f"end ({self.end}) must not be above start ({self.start})")
        return self

    def at(self, progress: float) -> float:
        """The temperature, falling exponentially, at a progress from 0 to 1 (clamped)."""
        progress = min(max(progress, 0.0), 1.0)
        return float(self.start * (self.end / self.start) ** progress)


class SearchSettings(Settings):
    """How the prefix network is searched: relaxation, optimisation, schedule and guards.

    Each description ends with what was measured for the option: docs/results/search.md.
    """

    mode: Literal["search", "none", "random"] = "search"
    """search: search for the network during training; none: a fixed two-layer MLP with the longest
    length in every layer; random: a network drawn from the search space with the run's seed.
    Without a search, all steps train the network. Evidence: beside a LoRA on queries and values a
    searched network is 0.2 [-0.7, +1.3] points above random ones of its size."""
    genotype: Path | None = None
    """Genotype file: train this network instead of searching for one. Evidence: a network that was
    found before and trained for all steps has 63.2, one that is searched during training 61.4."""
    adapt: bool = False
    """Fit a genotype that was made for another model to this one: layer switches map by relative
    depth, head sizes come from this model. Otherwise such a genotype is refused. Evidence: a
    network from other tasks is as good as one from the same tasks (62.9 and 63.2); networks from
    another model were not measured."""
    budget: int | None = Field(None, ge=1)
    """Maximum trainable parameters of the searched or random prefix network, without the model's
    heads, and without LoRA unless its ranks are searched. The search keeps the expected number at
    this value in every step. Default: no limit. Evidence: without LoRA, limited to 250,000, the
    search has 63.8, random networks 58.4."""
    lead: float = Field(3.0, ge=0, allow_inf_nan=False)
    """Initial bonus of the larger option (layer on, longest length, full head, largest rank), added
    to its logit. 0 = no bonus. With a bonus, a layer or position is dropped only if training keeps
    lowering its weight. Evidence: without LoRA 64.5 with the bonus and 60.7 without, better with
    each of 3 seeds."""
    relaxation: RelaxationName = "gumbel"
    """How logits become weights. softmax; gumbel: softmax with new noise in each step, so that
    options don't settle into a mixture; sampled-path: one option is drawn, and only that one is
    computed. Evidence: about equal over 250 steps (64.9, 64.3, 63.9); over 622 steps gumbel has
    70.1, softmax 67.4."""
    temperature: TemperatureSchedule = Field(default_factory=TemperatureSchedule)
    """Falls from the end of the warm-up to the start of the cool-down. Evidence: an end of 0.5
    instead of 0.1 is 1.4 points better without LoRA, 1.2 worse beside one."""
    optimise: Literal["single", "bilevel"] = "single"
    """single: the decisions learn from the same training batch as the weights; bilevel: they learn
    from rows held out of the development split (first order). Evidence: 64.3 and 64.1; a run takes
    1.00 to 1.04 times as long as LoRA with single, 1.10 to 1.14 times with bilevel."""
    every: int = Field(4, ge=1)
    """bilevel: steps between updates of the decisions. Evidence: only 4 was measured, see
    optimise."""
    held_out: float = Field(0.5, gt=0, lt=1)
    """Fraction of each task's development rows that is reserved for bilevel, for perturbation and
    for scoring options. These rows don't count in the development metric. Evidence: only 0.5 was
    measured, see optimise and discretise."""
    order: Literal["parallel", "search-first"] = "parallel"
    """parallel: LoRA and prefix train together. search-first: the prefix is searched without LoRA,
    then LoRA trains with the prefix fixed; the total number of steps is the same. Evidence:
    search-first is 5 to 7 points worse with each of 3 seeds; it is kept as the paper's ablation."""
    discretise: Literal["argmax", "perturbation"] = "argmax"
    """How the final options are selected. argmax: the largest logit; perturbation: one decision
    after another during the cool-down, the option whose removal increases the held-out loss most
    (works best with temperature.end near 1, so that a mixture is left). Evidence: perturbation is
    1.6 points better over 250 steps and 0.9 worse over 622."""
    score_options: bool = False
    """Score every option by removing it, as perturbation does, whatever `discretise` is. The scores
    are stored in the genotype and show whether a skip was really the best option. Evidence: in 20
    scored searches no skip won against its own score."""
    share: float = Field(0.4, gt=0, lt=1)
    """Fraction of all training steps used for the search. Evidence: 0.15 has 69.2 where 0.4 has
    70.1; without LoRA 0.2 is as good as 0.4."""
    warmup: float = Field(0.3, ge=0, lt=1)
    """Fraction of the search's steps, at its start, in which only weights learn. The operations are
    then useful before they compete with skip. Evidence: with it none of 20 searches ended in skip
    alone; without it nothing was measured."""
    cooldown: float = Field(0.15, ge=0, lt=1)
    """Fraction of the search's steps, at its end, in which the decisions are fixed and the mixture
    moves gradually to the chosen network. The score then does not jump when the rest is removed.
    Evidence: discretising costs 0.00 points with it, up to 0.16 without."""
    max_skips: int | float = Field(0.5, ge=0)
    """How many cells may end as skip: a number, or a fraction of the cells (with a decimal point,
    rounded down). Evidence: with the lead no guard had to act in 10 searches."""

    @field_validator("max_skips")
    @classmethod
    def _share_at_most_one(cls, value: int | float) -> int | float:
        if isinstance(value, float) and value > 1:
            raise ValueError(f"a share is at most 1.0, not {value}; write a count without a point")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> SearchSettings:
        if self.genotype is not None and self.mode != "search":
            raise ValueError(
                f"mode: {self.mode} makes a network of its own, so genotype must be left out"
            )
        if self.budget is not None and (self.genotype is not None or self.mode == "none"):
            raise ValueError("a given or fixed network has its size already: leave budget out")
        if self.adapt and self.genotype is None:
            raise ValueError("adapt is about a given genotype: set genotype, or leave adapt out")
        if self.warmup + self.cooldown >= 1:
            raise ValueError(
                f"warmup ({self.warmup}) and cooldown ({self.cooldown}) must leave steps in which "
                "the decisions move: their sum must be below 1"
            )
        if self.budget is not None and not self._holds_budgets:
            raise ValueError(
                "a budget can't be held by discretise: perturbation, which decides one after "
                "another; allowed: argmax"
            )
        return self

    @property
    def _holds_budgets(self) -> bool:
        return self.discretise != "perturbation"

    def held_to(self, budget: int | None) -> SearchSettings:
        """This search with another budget, or none; unchanged if its rule can't keep to one."""
        return self.model_copy(update={"budget": budget}) if self._holds_budgets else self

    @property
    def searches(self) -> bool:
        """Whether there is a search (no given, fixed or random network)."""
        return self.mode == "search" and self.genotype is None

    def held(self, space: SearchSpace, shape: PrefixShape) -> Budget | None:
        """The budget of a search of this space, if there is one.

        Raises:
            ConfigError: No network of the space is as small, or as large, as the budget.
        """
        if self.budget is None:
            return None
        from peml.search.budget import Budget

        return Budget(space, shape, self.budget, self.skip_limit(space.cells))

    @property
    def needs_held_out(self) -> bool:
        """Whether the search needs held-out rows."""
        scored = self.score_options or self.discretise == "perturbation"
        return scored or self.optimise == "bilevel"

    def skip_limit(self, cells: int) -> int:
        """The maximum number of ``cells`` cells that may be skip."""
        if isinstance(self.max_skips, int):
            return self.max_skips
        return math.floor(self.max_skips * cells)
