"""Options of the search, as they are written in a config."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from peml.prefix import PrefixShape, SearchSpace
from peml.search.schedule import TemperatureSchedule
from peml.settings import Settings

if TYPE_CHECKING:
    from peml.search.budget import Budget

RelaxationName = Literal["softmax", "gumbel", "sampled-path"]


class SearchSettings(Settings):
    """How the decisions are made soft, when and by what they move, and how they are guarded.

    Each description ends with what was measured for the option: docs/results/search.md.
    """

    mode: Literal["search", "none", "random"] = Field(
        "search",
        description="search: find the network while everything trains; none: a fixed two-layer "
        "MLP, the longest length, every layer; random: a network drawn from the space by the "
        "run's seed. Without a search all steps train the network. Evidence: beside a LoRA of "
        "queries and values a searched network is 0.2 [-0.7, +1.3] points above random ones of its "
        "size.",
    )
    genotype: Path | None = Field(
        None,
        description="Train the network of this genotype file instead of searching one. Evidence: "
        "a found network trained again for all steps has 63.2, searched while training 61.4.",
    )
    adapt: bool = Field(
        False,
        description="Whether a genotype made for another model is adapted: gates of layers at the "
        "same relative depth, heads and channels of this model. Else it is refused. Evidence: "
        "from other tasks a network is as good as from its own (62.9 and 63.2); from another model "
        "it was not measured.",
    )
    budget: int | None = Field(
        None,
        description="Trainable parameters of the prefix network (heads apart, and the LoRA unless "
        "its ranks are searched): the expected number is held there in every step of the search, "
        "and the network found, or drawn, has at most so many. Left out, the size is free. "
        "Evidence: without LoRA, held to 250,000, the search has 63.8, random networks 58.4.",
        ge=1,
    )
    lead: float = Field(
        3.0,
        description="How far the larger option of every decision of size (a layer on, the longest "
        "length, the full head, the largest rank) is ahead at the start, as a logit: a layer or a "
        "position goes only where something keeps pulling it out. 0: no option is preferred. "
        "Evidence: without LoRA 64.5 with the lead and 60.7 without, better with each of 3 seeds.",
        ge=0,
        allow_inf_nan=False,
    )
    relaxation: RelaxationName = Field(
        "gumbel",
        description="How logits become weights: softmax; gumbel (softmax with noise drawn anew in "
        "each step, which keeps options from settling into a blend); sampled-path (one option "
        "drawn, and only that one computed). Evidence: alike over 250 steps (64.9, 64.3, 63.9); "
        "over 622 steps gumbel has 70.1, softmax 67.4.",
    )
    temperature: TemperatureSchedule = Field(
        default_factory=TemperatureSchedule,
        description="Annealed from the end of the warm-up to the start of the cool-down. Evidence: "
        "an end of 0.5 instead of 0.1 is 1.4 points better without LoRA, 1.2 worse beside one.",
    )
    optimise: Literal["single", "bilevel"] = Field(
        "single",
        description="What moves the decisions: single, the training batch that also moves the "
        "weights; bilevel, rows held out of the development split (first order). Evidence: 64.3 "
        "and 64.1; a run costs 1.00 to 1.04 of LoRA's with single, 1.10 to 1.14 with bilevel.",
    )
    every: int = Field(
        4,
        description="bilevel: steps between moves of the decisions. Evidence: only 4 was measured, "
        "see optimise.",
        ge=1,
    )
    held_out: float = Field(
        0.5,
        description="Share of each task's development rows that bilevel and perturbation choose "
        "by and options are scored on; they are taken out of the development metric. Evidence: "
        "only a half was measured, see optimise and discretise.",
        gt=0,
        lt=1,
    )
    order: Literal["parallel", "search-first"] = Field(
        "parallel",
        description="parallel: LoRA and prefix train together all the time. search-first: the "
        "prefix is searched without LoRA, then LoRA trains and the prefix stands; as many steps in "
        "all. Evidence: search-first is 5 to 7 points worse with each of 3 seeds; it is kept as "
        "the paper's ablation.",
    )
    discretise: Literal["argmax", "perturbation"] = Field(
        "argmax",
        description="How options are chosen: argmax, the largest logit; perturbation, decision by "
        "decision in the cool-down, the option whose removal raises the held-out loss most (best "
        "with temperature.end near 1, which keeps a mixture to remove from). Evidence: "
        "perturbation is 1.6 points better over 250 steps and 0.9 worse over 622.",
    )
    score_options: bool = Field(
        False,
        description="Score every option by its removal, as perturbation does, whatever the rule; "
        "the scores go into the genotype and say whether a skip was really best. Evidence: in 20 "
        "scored searches no skip won against its own score.",
    )
    share: float = Field(
        0.4,
        description="Share of all training steps that the search takes. Evidence: 0.15 has 69.2 "
        "where 0.4 has 70.1; without LoRA 0.2 is as good as 0.4.",
        gt=0,
        lt=1,
    )
    warmup: float = Field(
        0.3,
        description="Share of the search's steps in which only weights move, so that the learnt "
        "operations are worth something before they are compared with skip. Evidence: with it none "
        "of 20 searches ended in skip alone; without it nothing was measured.",
        ge=0,
        lt=1,
    )
    cooldown: float = Field(
        0.15,
        description="Share of the search's steps, the last ones, in which the decisions stand "
        "and the mixture is led to the chosen network, so that nothing breaks when it becomes one. "
        "Evidence: discretising costs 0.00 points with it, up to 0.16 without.",
        ge=0,
        lt=1,
    )
    max_skips: int | float = Field(
        0.5,
        description="How many cells may end as skip: a number, or a share of the cells (with a "
        "decimal point, rounded down). Evidence: with the lead no guard had to act in 10 searches.",
        ge=0,
    )

    @field_validator("max_skips")
    @classmethod
    def _share_at_most_one(cls, value: int | float) -> int | float:
        if isinstance(value, float) and value > 1:
            raise ValueError(f"a share is at most 1.0, not {value}; write a count without a point")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> SearchSettings:
        if self.genotype is not None and self.mode != "search":
            raise ValueError(
                f"mode: {self.mode} makes a network of its own, so genotype must be left out"
            )
        if self.budget is not None and (self.genotype is not None or self.mode == "none"):
            raise ValueError("a given or fixed network has its size already: leave budget out")
        if self.adapt and self.genotype is None:
            raise ValueError("adapt is about a given genotype: set genotype, or leave adapt out")
        return self

    @model_validator(mode="after")
    def _decisions_move(self) -> SearchSettings:
        if self.warmup + self.cooldown >= 1:
            raise ValueError(
                f"warmup ({self.warmup}) and cooldown ({self.cooldown}) must leave steps in which "
                "the decisions move: their sum must be below 1"
            )
        return self

    @model_validator(mode="after")
    def _budget_can_be_held(self) -> SearchSettings:
        if self.budget is not None and not self._holds_budgets:
            raise ValueError(
                "a budget can't be held by discretise: perturbation, which decides one after "
                "another; allowed: argmax"
            )
        return self

    @property
    def _holds_budgets(self) -> bool:
        return self.discretise != "perturbation"

    def held_to(self, budget: int) -> SearchSettings:
        """The same search held to a budget; as it is where its rule can't hold one."""
        return self.model_copy(update={"budget": budget}) if self._holds_budgets else self

    @property
    def searches(self) -> bool:
        """Whether anything is left to find."""
        return self.mode == "search" and self.genotype is None

    def held(self, space: SearchSpace, shape: PrefixShape) -> Budget | None:
        """What keeps a search of this space to the budget, if there is one.

        Raises:
            ConfigError: No network of the space is as small, or as large, as the budget.
        """
        if self.budget is None:
            return None
        from peml.search.budget import Budget

        return Budget(space, shape, self.budget, self.skip_limit(space.cells))

    @property
    def needs_held_out(self) -> bool:
        """Whether some choice is made on rows of its own."""
        scored = self.score_options or self.discretise == "perturbation"
        return scored or self.optimise == "bilevel"

    def search_steps(self, total_steps: int) -> int:
        """Steps of the search phase, of all training steps (at least 1)."""
        return max(1, round(self.share * total_steps))

    def skip_limit(self, cells: int) -> int:
        """How many of ``cells`` cells may end as skip."""
        if isinstance(self.max_skips, int):
            return self.max_skips
        return math.floor(self.max_skips * cells)
