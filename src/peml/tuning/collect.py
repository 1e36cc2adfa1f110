"""From a study's trials to its results: ``study.json``, the table, the best configs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from peml.config import TuningCost, dump_shared
from peml.files import read_json, write_json, write_text
from peml.tuning.folder import StudyFolder
from peml.tuning.ledger import Ledger
from peml.tuning.objectives import OBJECTIVES
from peml.tuning.settings import StudyConfig
from peml.tuning.space import apply_values
from peml.tuning.trial import TrialRow

__all__ = ["BEST", "collect", "write_results"]

BEST = "best.yaml"
_LEAST_TRIALS = 4  # for importances: below, any parameter would do
_TREES = 64

Content = dict[str, Any]


def collect(config: StudyConfig, folder: StudyFolder, ledger: Ledger) -> Content:
    """``study.json``: everything the report says."""
    rows = ledger.rows()
    spent = [row.spent for row in rows if row.spent is not None]
    own = folder.driver()
    return {
        "format": 1,
        "name": config.name,
        "model": config.run.model.name,
        "method": config.run.method.name,
        **_environment(folder, rows),
        "objectives": [
            {
                "name": name,
                "title": OBJECTIVES[name].title,
                "direction": OBJECTIVES[name].direction,
            }
            for name in config.objectives
        ],
        "sampler": config.sampler.model_dump(mode="json"),
        "pruner": config.pruner.model_dump(mode="json"),
        "budget": config.budget.model_dump(mode="json"),
        "space": {
            path: {"log": parameter.log, "choices": parameter.choices}
            for path, parameter in config.space.items()
        },
        "trials": [_trial(row, folder, own["id"]) for row in rows],
        "best": best_numbers(config, rows),
        "importance": _importance(ledger.study),
        "cost": {
            "trials": len(spent),
            "seconds": sum(item.seconds for item in spent),
            "tokens": sum(item.tokens for item in spent),
        },
    }


def best_numbers(config: StudyConfig, rows: Sequence[TrialRow]) -> list[int]:
    """The best trial, or with two objectives the Pareto front, the best mean first.

    Of equal trials the first.
    """
    finished = [row for row in rows if row.state == "finished"]
    signs = [1 if OBJECTIVES[name].direction == "maximize" else -1 for name in config.objectives]

    def scores(row: TrialRow) -> tuple[float, ...]:
        return tuple(sign * value for sign, value in zip(signs, row.objectives, strict=True))

    ordered = sorted(finished, key=lambda row: (*(-score for score in scores(row)), row.number))
    front: list[int] = []
    second = -math.inf
    for row in ordered:  # the best mean first: on the front is what has more of the second
        rest = scores(row)[-1]
        if rest > second:
            front.append(row.number)
            second = rest
    return front[:1] if len(signs) == 1 else front


def write_results(config: StudyConfig, folder: StudyFolder, content: Content) -> None:
    """Writes ``study.json``, ``trials.csv``, ``tuning_cost.json`` and the best configs."""
    write_json(folder.results, content)
    write_text(folder.path / "trials.csv", _csv(content))
    write_json(folder.path / "tuning_cost.json", content["cost"])
    for place, number in enumerate(content["best"]):
        text = _best_config(config, content, number)
        if place == 0:
            write_text(folder.path / BEST, text)
        if len(config.objectives) > 1:
            write_text(folder.path / "front" / f"{number:04}.yaml", text)


def _best_config(config: StudyConfig, content: Content, number: int) -> str:
    trial = next(trial for trial in content["trials"] if trial["number"] == number)
    cost = TuningCost(**content["cost"])
    best = apply_values(config.run, trial["values"]).model_copy(update={"tuning_cost": cost})
    listed = ", ".join(
        f"{objective['title']} {value:.6g}"
        for objective, value in zip(content["objectives"], trial["objectives"], strict=True)
    )
    head = (
        f"# Trial {number} of the study {config.name!r}: {listed}.\n"
        f"# Chosen among {cost.trials} trials on the development split, which took "
        f"{cost.seconds:,.0f} seconds and {cost.tokens:,} tokens.\n"
    )
    return head + dump_shared(best)


def _trial(row: TrialRow, folder: StudyFolder, own: str) -> Content:
    spent = row.spent
    place = folder.trial(row.number)
    return {
        "number": row.number,
        "state": row.state,
        "objectives": list(row.objectives),
        "values": row.values,
        "seconds": spent and spent.seconds,
        "tokens": spent and spent.tokens,
        "parameters": spent and spent.parameters,
        "reports": {str(percent): mean for percent, mean in row.reports.items()},
        "reason": row.reason,
        # Another driver's run folders are where that driver is.
        "folder": place.relative_to(folder.path).as_posix() if row.driver == own else "",
        "place": row.place,
    }


def _environment(folder: StudyFolder, rows: Sequence[TrialRow]) -> Content:
    """Device, versions and commit of the first trial that was started here."""
    for row in rows:
        path = folder.trial(row.number) / "environment.json"
        if path.is_file():
            found = read_json(path)
            return {name: found[name] for name in ("device", "versions", "commit")}
    return {"device": "", "versions": {}, "commit": None}


def _importance(study: optuna.Study) -> dict[str, float]:
    """Share of the mean's variance that each parameter explains (fANOVA, Hutter et al. 2014).

    Empty where too few trials finished, or all came to the same.
    """
    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(finished) < _LEAST_TRIALS or len({trial.values[0] for trial in finished}) == 1:
        return {}
    return get_param_importances(
        study,
        evaluator=FanovaImportanceEvaluator(n_trees=_TREES, seed=0),
        target=lambda trial: float(trial.values[0]),
    )


def _csv(content: Content) -> str:
    """One line a trial, nothing rounded; empty where there is no number."""
    names = [objective["name"] for objective in content["objectives"]]
    columns = ["number", "state", *names, *content["space"]]
    columns += ["seconds", "tokens", "trainable_parameters", "folder", "reason"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for trial in content["trials"]:
        found = [*trial["objectives"], *[None] * len(names)][: len(names)]
        values = [trial["values"].get(path) for path in content["space"]]
        rest = [trial[key] for key in ("seconds", "tokens", "parameters")]
        rest += [trial["folder"] or trial["place"], trial["reason"]]
        writer.writerow([trial["number"], trial["state"], *found, *values, *rest])
    return text.getvalue()
