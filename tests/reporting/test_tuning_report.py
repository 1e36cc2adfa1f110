"""A study's report: what it says, and that it stands alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from peml.errors import RunError
from peml.records.study import StudyRecord
from peml.reporting.tuning.figures import draw_study
from peml.reporting.tuning.page import render_study_html, write_tuning_report
from tests.examples.studies import write_example_study
from tests.reporting.pages import SVG, parse_page, section_names, table_rows, text_of


@pytest.fixture
def single(tmp_path: Path) -> StudyRecord:
    return StudyRecord.read(write_example_study(tmp_path / "single"))


@pytest.fixture
def double(tmp_path: Path) -> StudyRecord:
    return StudyRecord.read(write_example_study(tmp_path / "double", front=True))


def changed(folder: Path, **values: Any) -> StudyRecord:
    path = write_example_study(folder) / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return StudyRecord.read(folder)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def test_writes_one_page_and_the_figures(tmp_path: Path) -> None:
    write_tuning_report(write_example_study(tmp_path, front=True))
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        "study.json", "report.html",
        *(f"figures/{name}.{kind}" for name in ("history", "front", "importance", "parallel")
          for kind in ("svg", "png")),
    }  # fmt: skip


def test_the_page_asks_for_nothing_else(single: StudyRecord) -> None:
    page = parse_page(render_study_html(single))
    assert section_names(page) == ["figures", "trials", "settings"]
    assert len(list(page.iter(f"{SVG}svg"))) == 3
    for element in page.iter():
        assert element.tag != "script"
        assert not (element.get("src") or "").startswith("http")
        assert not (element.get("href") or "").startswith("http")


def test_every_trial_is_in_the_table_once(single: StudyRecord) -> None:
    rows = table_rows(parse_page(render_study_html(single)), "table")
    assert [row[0] for row in rows[1:]] == [str(number) for number in range(40)]
    assert rows[6][1] == "failed"
    assert "training diverged" in rows[6][-1]
    best = single.front()[0]
    assert rows[1 + best.number][2] == f"{best.mean or 0:.3f}"
    assert rows[1][4] == str(single.trials[0].values["method.lora.r"])


def test_the_words_say_what_came_out(single: StudyRecord, double: StudyRecord) -> None:
    said = text_of(parse_page(render_study_html(single)))
    finished = len(single.in_state("finished"))
    assert f"{finished} of 40 trials finished" in said
    assert "2 failed" in said
    assert f"Trial {single.best[0]} has the highest development mean" in said
    assert "training.learning_rates.prefix explains 82 %" in said
    said = text_of(parse_page(render_study_html(double)))
    assert f"{len(double.best)} trials are on the Pareto front" in said


def test_collapsed_trials_do_not_press_the_others_together(single: StudyRecord) -> None:
    history = draw_study(single)["history"]
    low, high = history.axes[0].get_ylim()
    assert low > 0.5
    assert high > max(trial.mean or 0.0 for trial in single.trials)
    assert "1 trial below the axis" in texts(history)


def test_the_whole_front_is_seen_even_where_its_mean_is_low(tmp_path: Path) -> None:
    record = StudyRecord.read(write_example_study(tmp_path, front=True))
    trials = [trial.model_dump() for trial in record.trials]
    trials[11]["objectives"][1] = 10.0  # the collapsed one is the smallest
    study = changed(
        tmp_path / "low",
        trials=trials,
        best=[*record.best, 11],
        objectives=[objective.model_dump() for objective in record.objectives],
    )
    front = draw_study(study)["front"]
    assert front.axes[0].get_ylim()[0] < 35
    assert "11" in texts(front)


def test_names_are_text_not_markup(tmp_path: Path) -> None:
    study = changed(tmp_path, name="<b>&amp;")
    assert "<b>&amp;" in text_of(parse_page(render_study_html(study)))


@pytest.mark.parametrize("trials", [0, 1, 2])
def test_a_study_that_has_hardly_begun_is_reported(trials: int, tmp_path: Path) -> None:
    study = StudyRecord.read(write_example_study(tmp_path, trials=trials))
    page = parse_page(render_study_html(study))
    assert len(table_rows(page, "table")) == trials + 1
    assert ("None has a score yet." in text_of(page)) == (trials == 0)


def test_numbers_that_are_none_are_shown_as_such(tmp_path: Path) -> None:
    record = StudyRecord.read(write_example_study(tmp_path))
    trials = [trial.model_dump() for trial in record.trials]
    trials[0] |= {"objectives": [math.nan], "seconds": None, "tokens": None}
    rows = table_rows(parse_page(render_study_html(changed(tmp_path, trials=trials))), "table")
    assert rows[1][2] == "\u2013"


def test_a_missing_or_newer_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"study\.json: the file is missing"):
        write_tuning_report(tmp_path)
    with pytest.raises(RunError, match="written in format 9"):
        changed(tmp_path, format=9)
