"""Is a search over contexts worth its cost? Random configs of its space, with several seeds each.

`write` draws configs of `lora+context` at random and writes a comparison of them. `peml compare`
runs it. `judge` splits the variance of the configs' means over tasks into what differs between
configs and what differs between seeds of one config. A search has something to find only if the
first is larger.

    python benchmarks/context_draws.py write benchmarks/studies/contexts_16.yaml DRAWS --draws 12 \
        --seeds 0 1 --set tuning=null --set run.tasks.source=FOLDER
    peml compare DRAWS/study.yaml --output DRAWS/runs
    python benchmarks/context_draws.py judge DRAWS/runs
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from random import Random
from typing import Any

import yaml
from scipy import stats

from peml.comparison.settings import load_comparison
from peml.records.comparison import ComparisonRecord

RANKS = (4, 8, 16)
RATES = (1e-3, 2.5e-3)
SHOTS = (2, 4, 8)
STEP_SHOTS = (2, 4)
"""With `draw: step`. A step's batch, the rows drawn for it, and those that evaluations show are
different train rows, and 16 rows are few."""
SHOWN = ("once", "masked", "step")
"""The rows that are shown: always the same, these and trained on as well, or others every step."""
TRAINED = ("none", "values", "keys-values")


def draw(random: Random) -> dict[str, Any]:
    """A method's config; every option is as likely as the others of its kind."""
    lora = {"r": random.choice(RANKS), "learning_rate": random.choice(RATES)}
    shown, trained = random.choice(SHOWN), random.choice(TRAINED)
    context: dict[str, Any] = {
        "instruction": random.choice((False, True)),
        "shots": random.choice(STEP_SHOTS if shown == "step" else SHOTS),
        "choose": random.choice(("balanced", "first")),
    }
    config: dict[str, Any] = {"name": "lora+context", "lora": lora, "context": context}
    if shown == "step":
        context["draw"] = "step"
    elif trained != "none":
        config["correction"] = {"trains": trained, "kind": "low-rank"}
    if shown == "masked":
        context["leave_one_out"] = "masked"
        config.get("correction", {}).update(dropout=0)
    return config


def draw_different(count: int, seed: int) -> dict[str, dict[str, Any]]:
    """``count`` configs, no two the same, by their labels."""
    random, drawn = Random(seed), list[dict[str, Any]]()
    while len(drawn) < count:
        config = draw(random)
        if config not in drawn:
            drawn.append(config)
    return {f"draw{number:02}": config for number, config in enumerate(drawn)}


def write(arguments: argparse.Namespace) -> None:
    """Writes the comparison."""
    config = load_comparison(arguments.study, arguments.set)
    written = config.model_dump(mode="json", exclude_defaults=True)
    written["methods"] = draw_different(arguments.draws, arguments.draw_seed)
    written["seeds"] = arguments.seeds
    written["focus"] = None
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "study.yaml"
    path.write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")
    print(path)


@dataclass(frozen=True)
class Spread:
    """Scores of several configs, with the same number of seeds each.

    Seeds have effects of their own (each draws other rows), which all configs share; they are
    taken out before configs are compared.

    Attributes:
        scores: Mean over tasks by config, one number per seed.
    """

    scores: dict[str, tuple[float, ...]]

    @property
    def means(self) -> dict[str, float]:
        """Each config's mean over the seeds."""
        return {label: statistics.fmean(scores) for label, scores in self.scores.items()}

    @property
    def seed_deviation(self) -> float:
        """Standard deviation of one config's scores over seeds, the seeds' effects taken out."""
        columns = list(zip(*self.scores.values(), strict=True))
        effects = [statistics.fmean(column) for column in columns]
        grand = statistics.fmean(effects)
        squares = sum(
            (score - self.means[label] - effect + grand) ** 2
            for label, scores in self.scores.items()
            for score, effect in zip(scores, effects, strict=True)
        )
        return sqrt(squares / ((len(self.scores) - 1) * (len(columns) - 1)))

    @property
    def config_deviation(self) -> float:
        """Standard deviation between configs beyond what seeds explain; 0 if there is none."""
        seeds = len(next(iter(self.scores.values())))
        between = statistics.variance(self.means.values())
        return sqrt(max(0.0, between - self.seed_deviation**2 / seeds))

    @property
    def chance(self) -> float:
        """Probability of so large a spread between configs that don't differ (F test)."""
        seeds, configs = len(next(iter(self.scores.values()))), len(self.scores)
        ratio = statistics.variance(self.means.values()) * seeds / self.seed_deviation**2
        return float(stats.f.sf(ratio, configs - 1, (configs - 1) * (seeds - 1)))

    @property
    def best_elsewhere(self) -> float:
        """How far the best config by one seed is above the mean of all by the other seeds.

        The mean over seeds: what a search that sees one seed brings in the others.
        """
        gains = []
        for seed in range(len(next(iter(self.scores.values())))):
            best = max(self.scores, key=lambda label: self.scores[label][seed])
            rest = {label: _without(scores, seed) for label, scores in self.scores.items()}
            gains.append(rest[best] - statistics.fmean(rest.values()))
        return statistics.fmean(gains)


def _without(scores: Sequence[float], seed: int) -> float:
    return statistics.fmean([score for place, score in enumerate(scores) if place != seed])


def read_spread(folder: Path) -> Spread:
    """The scores of the configs that have finished with all seeds."""
    record = ComparisonRecord.read(folder)
    finished = {
        row.label: tuple(cell.mean for cell in row.cells if cell.mean is not None)
        for row in record.suites[0].rows
    }
    return Spread({k: scores for k, scores in finished.items() if len(scores) == len(record.seeds)})


def judge(arguments: argparse.Namespace) -> None:
    """Prints the configs' scores, best first, and the two spreads."""
    spread = read_spread(arguments.runs)
    print("| config | mean | by seed |\n|---|--:|---|")
    for label, mean in sorted(spread.means.items(), key=lambda item: -item[1]):
        print(f"| {label} | {mean:.1%} | {' '.join(f'{s:.1%}' for s in spread.scores[label])} |")
    print(
        f"\nbetween configs {spread.config_deviation:.1%}, between seeds "
        f"{spread.seed_deviation:.1%}, F test p = {spread.chance:.2f}; the best by one seed is "
        f"{spread.best_elsewhere:+.1%} from the mean by the others"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the comparison, or reads its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    writing = commands.add_parser("write")
    writing.add_argument("study", type=Path, help="a comparison, for all but methods and seeds")
    writing.add_argument("out", type=Path)
    writing.add_argument("--draws", type=int, default=12)
    writing.add_argument("--draw-seed", type=int, default=0)
    writing.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    writing.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    writing.set_defaults(do=write)
    judging = commands.add_parser("judge")
    judging.add_argument("runs", type=Path, help="the comparison's folder")
    judging.set_defaults(do=judge)
    arguments = parser.parse_args(argv)
    arguments.do(arguments)


if __name__ == "__main__":
    main()
