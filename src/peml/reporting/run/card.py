"""The model card: the README of a finished run's model folder."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from peml.files import write_text
from peml.reporting.cautions import tell_cautions
from peml.reporting.rendering import render
from peml.reporting.run.diagram import save_drawing
from peml.reporting.run.results import RunRecord, load_run
from peml.reporting.summary import summarise

CARD = "README.md"
_DRAWING = "README-network.png"  # a name that a manifest needn't list
_MODEL = "model"
_EMPTY = "To fill:"


def write_card(run_folder: Path) -> None:
    """Writes the card into a finished run's ``model/``; an existing card is kept."""
    model = run_folder / _MODEL
    if not model.is_dir() or (model / CARD).exists():
        return
    run = load_run(run_folder)
    if run.genotype is not None:
        save_drawing(run.genotype, model / _DRAWING)
    write_text(model / CARD, render_card(run))


def render_card(run: RunRecord) -> str:
    """The card as Markdown, preceded by the hub's metadata."""
    base = _public_name(run.results.model)
    layers = run.genotype.layers if run.genotype else []
    start = run.plan.start
    return render(
        "card.md.j2",
        run=run,
        results=run.results,
        plan=run.plan,
        summary=summarise(run.results.model_copy(update={"model": base})),
        cautions=tell_cautions(run.plan),
        types={task.name: task.type for task in run.plan.tasks},
        seconds=sum(run.results.cost.seconds.values()),
        front_matter=_front_matter(run),
        base=base,
        is_public=_is_on_hub(run.results.model),
        start=_public_name(start.source) if start is not None else "",
        layers_on=[index for index, active in enumerate(layers) if active],
        drawing=_DRAWING,
    )


def list_unfilled(card: str) -> list[str]:
    """The parts of a card that are still to be filled in by hand."""
    found = [line[line.index(_EMPTY) :] for line in card.splitlines() if _EMPTY in line]
    if "\nlicense:" not in card.partition("\n---\n")[0]:
        found.append("To fill: the licence's id (license: ... in the first lines).")
    return found


def _front_matter(run: RunRecord) -> str:
    types = {task.name: task.type for task in run.plan.tasks}
    results: Any = [
        EvalResult(
            task_type=types.get(name, "other").replace("-", " "),
            task_name=name,
            dataset_type=name,
            dataset_name=f"{name}, reported split",
            metric_type=task.metric,
            metric_value=round(task.value, 6),
        )
        for name, task in run.results.tasks.items()
    ]
    name = run.results.model
    data = ModelCardData(
        library_name="peml",
        base_model=name if _is_on_hub(name) else None,
        tags=["peml", run.results.method, "multi-task"],
        model_name=run.name,
        eval_results=results,
    )
    return str(data.to_yaml()).strip()


def _is_on_hub(name: str) -> bool:
    """Whether a model's name can be an id on the hub, and is no local path."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _public_name(name: str) -> str:
    """The last part of a local path, since other folder names are private."""
    return name if _is_on_hub(name) else Path(name).name
