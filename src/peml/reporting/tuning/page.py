"""Writes a study's report and figures into its folder."""

from pathlib import Path
from typing import Any

from peml.files import write_text
from peml.records.study import StudyRecord
from peml.reporting.numbers import score
from peml.reporting.rendering import embed, render
from peml.reporting.style import save_figures
from peml.reporting.tuning.figures import draw_study
from peml.reporting.tuning.parallel import MOST_AXES


def write_tuning_report(folder: Path) -> None:
    """Writes ``report.html`` and ``figures/`` into a study's folder.

    The last step of ``peml tune``, safe to call again. It reads only ``study.json``.
    """
    study = StudyRecord.read(folder)
    save_figures(draw_study(study), folder / "figures")
    write_text(folder / "report.html", render_study_html(study))


def render_study_html(study: StudyRecord) -> str:
    """The page, with its style, table and figures included."""
    return render(
        "tuning.html.j2",
        study=study,
        figures=embed(draw_study(study)),
        sentences=_describe(study),
        parallel_shown=min(MOST_AXES, len(study.space)),
        show=_shown,
    )


def _describe(study: StudyRecord) -> list[str]:
    finished, pruned = len(study.in_state("finished")), len(study.in_state("pruned"))
    failed, running = len(study.in_state("failed")), len(study.in_state("running"))
    said = [f"{finished} of {len(study.trials)} trials finished"]
    said += [f"{pruned} were stopped early"] if pruned else []
    said += [f"{failed} failed"] if failed else []
    said += [f"{running} {'has' if running == 1 else 'have'} not ended"] if running else []
    sentences = [", ".join(said) + "."]
    front = study.front()
    if not front:
        return [*sentences, "None has a score yet."]
    best = front[0]
    if len(study.objectives) == 1:
        sentences.append(
            f"Trial {best.number} has the highest development mean, {score(best.mean)}; "
            "best.yaml is its config."
        )
    else:
        sentences.append(
            f"{len(front)} trials are on the Pareto front of development mean and "
            f"{study.objectives[1].title}; best.yaml is the one with the highest mean, trial "
            f"{best.number} ({score(best.mean)}), front/ holds all of them."
        )
    if study.importance:
        path, share = next(iter(study.importance.items()))
        sentences.append(f"{path} explains {100 * share:.0f} % of the variance of the mean.")
    return sentences


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
