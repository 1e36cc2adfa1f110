"""A parameter budget that holds in every step of a search and for its result."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from peml.errors import ConfigError
from peml.prefix.operations.registry import SKIP
from peml.prefix.shape import PrefixShape
from peml.prefix.size import ExpectedSize, count_choices
from peml.prefix.space import SearchSpace

_TOLERANCE = 1e-5  # of the budget
_STEPS = 60
_FARTHEST = 1e9


class Budget:
    """Keeps the expected size of the prefix network at a given number of parameters.

    In every step the logits are shifted in proportion to their options' cost, by the factor at
    which the expected size equals the budget::

        p_o ~ exp((logit_o - shift * cost_o) / temperature)

    This generalises the shifted sigmoid of S3Delta (arXiv 2206.07382) to decisions with more than
    two options of unequal cost. Of all distributions with this expected size, it is the nearest to
    the unshifted one in relative entropy (for costs that add up). Gradients treat the shift as a
    constant.

    Args:
        space: The search space.
        shape: Attention layers of the model.
        wanted: Parameters of the prefix network, plus the LoRA's if the space has its ranks.
        skips: Maximum number of cells that may be skip.

    Raises:
        ConfigError: No network of the space is as small, or as large, as the budget.
    """

    def __init__(self, space: SearchSpace, shape: PrefixShape, wanted: int, skips: int) -> None:
        self.wanted = wanted
        self._space, self._shape = space, shape
        self._skips = skips
        self._size = ExpectedSize(space, shape)
        self._check()
        names = self._size.decisions
        even = {name: torch.full((len(o),), 1 / len(o)) for name, o in names.items()}
        weights = self._size.pack(even, 0.0).requires_grad_()
        (costs,) = torch.autograd.grad(self._size(weights), weights)
        # The head's options cost as with half the layers on; costs are scaled to at most 1.
        self._costs = costs / max([1.0, *costs.abs().flatten().tolist()])

    def expected(self, weights: Mapping[str, Tensor]) -> float:
        """The expected size of a mixture, in parameters."""
        return self._size(self._size.pack(weights, 0.0)).item()

    def shift(self, logits: Mapping[str, Tensor], temperature: float) -> dict[str, Tensor]:
        """The amounts to subtract from the logits so that the expected size is the budget.

        Logits are those of every decision, (options,); the result has the same
        form, on their device.
        """
        rows = self._size.pack(logits, -torch.inf)
        factor = self._solve(rows, temperature)
        if not logits:
            return {}
        like = next(iter(logits.values()))
        shifts = (factor * self._costs).to(like, non_blocking=True)
        return {
            name: row[: len(logits[name])]
            for name, row in zip(self._size.decisions, shifts, strict=True)
        }

    def _solve(self, rows: Tensor, temperature: float) -> float:
        """The factor, by the Illinois method; a larger factor gives a smaller network."""

        def excess(factor: float) -> float:
            weights = ((rows - factor * self._costs) / temperature).softmax(-1)
            return self._size(weights).item() - self.wanted

        # The root lies between `start` and `end` once their excesses have opposite signs.
        start, excess_start = 0.0, excess(0.0)
        end = 1.0 if excess_start > 0 else -1.0
        excess_end = excess(end)
        while excess_end * excess_start > 0 and abs(end) < _FARTHEST:
            start, excess_start = end, excess_end
            end *= 2
            excess_end = excess(end)
        for _ in range(_STEPS):
            if abs(excess_end) <= _TOLERANCE * self.wanted or excess_start == excess_end:
                break
            middle = (start * excess_end - end * excess_start) / (excess_end - excess_start)
            excess_middle = excess(middle)
            if excess_middle * excess_end < 0:
                start, excess_start = end, excess_end
            else:  # `start` stays; halving its excess keeps it from staying in every step
                excess_start /= 2
            end, excess_end = middle, excess_middle
        return end

    def fitted(self, choices: Mapping[str, str], scores: Mapping[str, Tensor]) -> dict[str, str]:
        """Changes choices to fit the budget with little loss of score.

        ``choices`` are within the guards; ``scores`` are those of every decision's options,
        (options,).

        While the network is too large, makes the change with the least loss of score per parameter
        saved. Then makes the changes that gain score and fit the budget, largest gain first.
        """
        chosen = self._space.complete(choices)
        points: dict[str, dict[str, float]] = {
            name: dict(zip(options, scores[name].tolist(), strict=True))
            for name, options in self._size.decisions.items()
        }

        def gain(name: str, option: str) -> float:
            return points[name][option] - points[name][chosen[name]]

        while (size := self._count(chosen)) > self.wanted:
            name, option, _ = min(
                (move for move in self._moves(chosen) if move[2] < size),
                key=lambda move: -gain(*move[:2]) / (size - move[2]),
            )
            chosen[name] = option
        while True:
            improvements = [
                move
                for move in self._moves(chosen)
                if move[2] <= self.wanted and gain(*move[:2]) > 0
            ]
            if not improvements:
                return {name: chosen[name] for name in self._size.decisions}
            name, option, _ = max(improvements, key=lambda move: gain(*move[:2]))
            chosen[name] = option

    def sample(self, generator: torch.Generator, tries: int = 1000) -> dict[str, str]:
        """Draws a network within the budget by rejection; the mean size of draws is the budget.

        After ``tries`` draws, a network is fitted to the budget instead.
        """
        names = self._size.decisions
        even = {name: torch.zeros(len(options)) for name, options in names.items()}
        shift = self.shift(even, 1.0)
        for _ in range(tries):
            drawn = {
                name: options[
                    int(torch.multinomial((-shift[name]).softmax(-1), 1, generator=generator))
                ]
                for name, options in names.items()
            }
            if self._is_allowed(drawn):
                complete = self._space.complete(drawn)
                if self._count(complete) <= self.wanted:
                    return complete
        return self.fitted(self._extreme(1), {name: -row for name, row in shift.items()})

    def _moves(self, chosen: Mapping[str, str]) -> Iterator[tuple[str, str, int]]:
        """Every allowed change of one decision: name, new option, resulting size."""
        for name, options in self._size.decisions.items():
            for option in options:
                changed = {**chosen, name: option}
                if option != chosen[name] and self._is_allowed(changed):
                    yield name, option, self._count(changed)

    def _is_allowed(self, choices: Mapping[str, str]) -> bool:
        names = self._size.decisions
        skipped = sum(choices[name] == SKIP for name in names if name.startswith("cell."))
        gates = [choices[name] for name in names if name.startswith("layer.")]
        return skipped <= self._skips and (not gates or "on" in gates)

    def _count(self, choices: Mapping[str, str]) -> int:
        return count_choices(self._space, self._shape, choices)

    def _extreme(self, sign: int) -> dict[str, str]:
        """The smallest network (sign 1), or the largest (-1), that the guards allow."""
        chosen = {
            name: next((option for option in options if option != SKIP), options[0])
            for name, options in self._space.options().items()
        }
        while True:
            size = sign * self._count(chosen)
            moves = [(sign * count, n, o) for n, o, count in self._moves(chosen)]
            best = min(moves, default=(size, "", ""))
            if best[0] >= size:
                return chosen
            chosen[best[1]] = best[2]

    def _check(self) -> None:
        smallest, largest = self._extreme(1), self._extreme(-1)
        low, high = self._count(smallest), self._count(largest)
        if low <= self.wanted <= high:
            return
        name, member, size = (
            ("smallest", smallest, low) if self.wanted < low else ("largest", largest, high)
        )
        raise ConfigError(
            f"method.search.budget is {self.wanted:,} parameters, but the {name} member of the "
            f"search space has {size:,}: {_described(member)}",
            allowed=f"{low:,} to {high:,}",
            action="change the budget, or the space (method.prefix: width, length, operations, "
            "head, head_rank, layer_gates; method.lora_ranks; method.search.max_skips)",
        )


def _described(choices: Mapping[str, str]) -> str:
    cells = [option for name, option in choices.items() if name.startswith("cell.")]
    layers = [option for name, option in choices.items() if name.startswith("layer.")]
    ranks = [option for name, option in choices.items() if name.startswith("rank.")]
    return (
        f"cells {', '.join(cells)}; length {choices['length']}; {layers.count('on')} of "
        f"{len(layers)} layers; {choices['head']} head"
        + (f"; LoRA ranks {', '.join(ranks)}" if ranks else "")
    )
