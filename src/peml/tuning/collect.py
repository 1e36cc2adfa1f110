"""Writes a study's results: ``study.json``, the table of trials, the best configs."""

import csv
import io
import math
from collections.abc import Sequence

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from peml.config.grants import dump_shared
from peml.files import write_text
from peml.records.run import Environment, TuningCost
from peml.records.study import ObjectiveRecord, SpaceRecord, StudyRecord, TrialRecord
from peml.tuning.folder import StudyFolder
from peml.tuning.ledger import Ledger
from peml.tuning.objectives import OBJECTIVES
from peml.tuning.settings import StudyConfig
from peml.tuning.space import apply_values

BEST = "best.yaml"
_LEAST_TRIALS = 4  # with fewer, importances mean nothing
_TREES = 64


def collect(config: StudyConfig, folder: StudyFolder, ledger: Ledger) -> StudyRecord:
    """Gathers everything that the study's report shows."""
    trials = [_placed(trial, folder) for trial in ledger.rows()]
    ended = [trial for trial in trials if trial.seconds is not None]
    found = (Environment.find(folder.trial(trial.number)) for trial in trials)
    environment = next((one for one in found if one is not None), Environment())
    return StudyRecord(
        name=config.name,
        model=config.run.model.name,
        method=config.run.method.name,
        device=environment.device,
        versions=environment.versions,
        commit=environment.commit,
        objectives=[
            ObjectiveRecord(
                name=name, title=OBJECTIVES[name].title, direction=OBJECTIVES[name].direction
            )
            for name in config.objectives
        ],
        sampler=config.sampler.model_dump(mode="json"),
        pruner=config.pruner.model_dump(mode="json"),
        budget=config.budget.model_dump(mode="json"),
        space={
            path: SpaceRecord(log=parameter.log, choices=parameter.choices)
            for path, parameter in config.space.items()
        },
        trials=trials,
        best=best_numbers(config, trials),
        importance=_importance(ledger.study),
        cost=TuningCost(
            trials=len(ended),
            seconds=sum(trial.seconds or 0.0 for trial in ended),
            tokens=sum(trial.tokens or 0 for trial in ended),
        ),
    )


def _placed(trial: TrialRecord, folder: StudyFolder) -> TrialRecord:
    """Adds the path of the trial's run folder, if this driver ran the trial."""
    if trial.driver != folder.driver().id:
        return trial
    place = folder.trial(trial.number).relative_to(folder.path).as_posix()
    return trial.model_copy(update={"folder": place})


def best_numbers(config: StudyConfig, trials: Sequence[TrialRecord]) -> list[int]:
    """Numbers of the best trials: one, or with two objectives the Pareto front, best mean first.

    Of equally good trials, the one with the lowest number counts.
    """
    finished = [trial for trial in trials if trial.state == "finished"]
    signs = [1 if OBJECTIVES[name].direction == "maximize" else -1 for name in config.objectives]

    def scores(trial: TrialRecord) -> tuple[float, ...]:
        return tuple(
            sign * (value or 0.0) for sign, value in zip(signs, trial.objectives, strict=True)
        )

    ordered = sorted(
        finished, key=lambda trial: (*(-score for score in scores(trial)), trial.number)
    )
    front: list[int] = []
    second = -math.inf
    # Sorted by the first objective, so a trial is on the front if it improves the second.
    for trial in ordered:
        rest = scores(trial)[-1]
        if rest > second:
            front.append(trial.number)
            second = rest
    return front[:1] if len(signs) == 1 else front


def write_results(config: StudyConfig, folder: StudyFolder, study: StudyRecord) -> None:
    """Writes ``study.json``, ``trials.csv``, ``tuning_cost.json`` and the best configs."""
    study.write(folder.path)
    write_text(folder.path / "trials.csv", _csv(study))
    study.cost.write(folder.path)
    for place, trial in enumerate(study.front()):
        text = _best_config(config, study, trial)
        if place == 0:
            write_text(folder.path / BEST, text)
        if len(config.objectives) > 1:
            write_text(folder.path / "front" / f"{trial.number:04}.yaml", text)


def _best_config(config: StudyConfig, study: StudyRecord, trial: TrialRecord) -> str:
    cost = study.cost
    best = apply_values(config.run, trial.values).model_copy(update={"tuning_cost": cost})
    listed = ", ".join(
        f"{objective.title} {value:.6g}"
        for objective, value in zip(study.objectives, trial.objectives, strict=True)
    )
    head = (
        f"# Trial {trial.number} of the study {config.name!r}: {listed}.\n"
        f"# Chosen among {cost.trials} trials on the development split, which took "
        f"{cost.seconds:,.0f} seconds and {cost.tokens:,} tokens.\n"
    )
    return head + dump_shared(best)


def _importance(study: optuna.Study) -> dict[str, float]:
    """Share of the mean's variance that each parameter explains (fANOVA, Hutter et al. 2014).

    Empty if too few trials finished, or if all have the same score.
    """
    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(finished) < _LEAST_TRIALS or len({trial.values[0] for trial in finished}) == 1:
        return {}
    return get_param_importances(
        study,
        evaluator=FanovaImportanceEvaluator(n_trees=_TREES, seed=0),
        target=lambda trial: float(trial.values[0]),
    )


def _csv(study: StudyRecord) -> str:
    """One line per trial, with unrounded numbers; a missing number is an empty cell."""
    names = [objective.name for objective in study.objectives]
    columns = ["number", "state", *names, *study.space]
    columns += ["seconds", "tokens", "trainable_parameters", "folder", "reason"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for trial in study.trials:
        found = [*trial.objectives, *[None] * len(names)][: len(names)]
        values = [trial.values.get(path) for path in study.space]
        rest = [trial.seconds, trial.tokens, trial.parameters]
        place = trial.folder or trial.place
        writer.writerow([trial.number, trial.state, *found, *values, *rest, place, trial.reason])
    return text.getvalue()
