"""What a predictor answers, against the model's own scores."""

from __future__ import annotations

import pytest
import torch

from peml.errors import DataError, TaskError
from peml.serving.predictor import Predictor
from tests.models.tasks import Row, batch_of, tiny_task_model
from tests.tasks.examples import choice, score, sentiment

WORDS = ("dog", "fox", "ball", "film", "man", "box", "yes", "no")
TASKS = (
    sentiment(labels=["bad", "good", "mixed"]),
    score(),
    choice(),
)
ROWS: dict[int, list[Row]] = {
    0: [{"sentence": f"the {word} is {word}", "label": 0} for word in WORDS],
    1: [{"first": word, "second": "the answer", "score": 1.0} for word in WORDS],
    2: [{"start": word, "options": ["yes", "a dog", "red ball"], "answer": 0} for word in WORDS],
}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    model = tiny_task_model("bert", TASKS).eval()
    generator = torch.Generator().manual_seed(2)
    assert model.heads is not None
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return Predictor(model)


@pytest.mark.parametrize("task_id", [0, 2])
@torch.no_grad()
def test_the_answer_is_the_option_scored_highest(predictor: Predictor, task_id: int) -> None:
    model, task = predictor.base, TASKS[task_id]
    answers = predictor.predict(task.name, ROWS[task_id])
    seen = set()
    for row, answer in zip(ROWS[task_id], answers, strict=True):
        batch = batch_of(model, [(task_id, row)], "score")
        scores = model.predict(model(batch), batch, task_id)[0]
        names = task.labels or row["options"]
        best = names[int(scores.argmax())]
        assert answer.value == best
        assert answer.scores == pytest.approx(
            dict(zip(names, scores.softmax(0).tolist(), strict=True)), abs=1e-5
        )
        seen.add(names.index(best))
    assert len(seen) > 1  # not one answer for every row


@torch.no_grad()
def test_a_regressions_answer_is_its_score(predictor: Predictor) -> None:
    model = predictor.base
    answers = predictor.predict("closeness", ROWS[1])
    wanted = []
    for row in ROWS[1]:
        batch = batch_of(model, [(1, row)], "score")
        wanted.append(float(model.predict(model(batch), batch, 1)[0]))
    assert [answer.value for answer in answers] == pytest.approx(wanted, abs=1e-5)
    assert len(set(wanted)) > 1
    assert all(answer.scores == {} for answer in answers)


def test_rows_are_answered_in_their_order_and_need_no_label(predictor: Predictor) -> None:
    rows = [{"sentence": row["sentence"]} for row in ROWS[0]]
    forward = predictor.predict("mood", rows)
    backward = predictor.predict("mood", rows[::-1])
    assert [answer.value for answer in backward[::-1]] == [answer.value for answer in forward]
    assert predictor.predict("mood", []) == []


def test_an_unknown_task_is_refused_by_name(predictor: Predictor) -> None:
    with pytest.raises(TaskError, match=r"not trained on a task 'moood'\. Did you mean 'mood'"):
        predictor.predict("moood", ROWS[0])


def test_rows_are_read_as_files_are(predictor: Predictor) -> None:
    row = {"start": "dog", "options": ["7", "8", "2.5"]}
    spelled, numbers = predictor.predict("ending", [row, row | {"options": [7, 8.0, 2.5]}])
    assert numbers == spelled
    with pytest.raises(DataError, match=r"row 1 \(from 0\), field 'start': null"):
        predictor.predict("ending", [row, row | {"start": None}])
