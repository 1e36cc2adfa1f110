"""What a row's options score: the same as before, normalised as asked, and in fewer passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peml.data.encoding import EncodedSplit, encode_split
from peml.data.rows import Rows
from peml.errors import DataError
from peml.evaluation import EvaluationSettings, predict_split
from peml.evaluation.evaluate import Predictions
from peml.evaluation.scoring.options import normalise
from peml.evaluation.scoring.requests import Request, score_alone
from peml.evaluation.settings import ScoringSettings
from peml.methods.attached import AttachedModel
from peml.models import TaskModel
from tests.evaluation.scoring.test_scores import counted
from tests.models.tasks import batch_of, tiny_task_model
from tests.tasks.examples import choice, score

TASKS = (choice(template="{{ start }}:"), score())
ROWS: list[dict[str, Any]] = [
    {"start": "the ball is in the green", "options": ["box", "lazy fox", "é"], "answer": 0},
    {"start": "a man", "options": ["is walking", "mind"], "answer": 1},
    {"start": "the ball is in the red", "options": ["box", "dog", "no"], "answer": 2},
]
SCORES = [{"first": "a man", "second": "a person is moving", "score": 2.0}]


def model(name: str) -> AttachedModel:
    return AttachedModel(tiny_task_model(name, TASKS), {})


def encoded(base: TaskModel, task_id: int, folder: Path) -> EncodedSplit:
    rows = Rows.from_list(SCORES if task_id else ROWS)
    return encode_split(rows, TASKS[task_id], base.family, "score", cache=folder)


def predicted(name: str, folder: Path, task_id: int = 0, **scoring: Any) -> Predictions:
    attached = model(name)
    split = encoded(attached.base, task_id, folder)
    settings = EvaluationSettings(tokens=64, scoring=ScoringSettings(**scoring))
    return predict_split(attached, split, task_id, settings)


def by_hand(name: str, row: dict[str, Any], option: str, prompt: str | None = None) -> list[float]:
    """log p of each token of an option, the end of text last."""
    base = tiny_task_model(name, TASKS).eval()
    asked = row | {"options": [option, option], "answer": 0}
    task = TASKS[0]
    if prompt is not None:
        base.tasks = (task.model_copy(update={"template": prompt}), TASKS[1])
    batch = batch_of(base, [(0, asked)], "score")
    base.family.logits_everywhere = True
    with torch.no_grad():
        losses, rows = base.family._target_losses(base.backbone, batch, None)  # type: ignore[attr-defined]
    return [-float(loss) for number, loss in zip(rows, losses, strict=True) if number == 0]


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("normalisation", ["none", "tokens", "bytes", "pmi"])
def test_scores_are_normalised_as_asked(
    name: str, share: bool, normalisation: str, tmp_path: Path
) -> None:
    found = predicted(name, tmp_path, share=share, normalisation=normalisation)
    for row, scores in zip(ROWS, found.scores, strict=True):
        for option, value in zip(row["options"], scores, strict=True):
            tokens = by_hand(name, row, option)
            expected = sum(tokens)
            if normalisation == "tokens":
                expected /= len(tokens)
            elif normalisation == "bytes":
                expected /= len(option.encode("utf-8"))
            elif normalisation == "pmi":
                expected -= sum(by_hand(name, row, option, prompt="Answer:"))
            assert value == pytest.approx(expected, abs=1e-4)
    assert found.predicted == [max(range(len(s)), key=s.__getitem__) for s in found.scores]


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_end_of_text_is_left_out_where_asked(name: str, tmp_path: Path) -> None:
    found = predicted(name, tmp_path, end=False, normalisation="tokens")
    for row, scores in zip(ROWS, found.scores, strict=True):
        for option, value in zip(row["options"], scores, strict=True):
            tokens = by_hand(name, row, option)[:-1]
            assert value == pytest.approx(sum(tokens) / len(tokens), abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_regression_uses_plain_likelihoods(name: str, tmp_path: Path) -> None:
    plain = predicted(name, tmp_path, task_id=1)
    normalised = predicted(name, tmp_path, task_id=1, normalisation="tokens")
    assert plain == normalised
    base = tiny_task_model(name, TASKS).eval()
    batch = batch_of(base, [(1, SCORES[0])], "score")
    with torch.no_grad():
        expected = base.predict(base(batch), batch, 1)
    assert plain.predicted == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_split_takes_fewer_tokens_than_its_options_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tries that ask whether the model can share are not the split's.
    monkeypatch.setattr("peml.evaluation.scoring.options.sharing_problem", lambda *_: None)
    computed = []
    for share in (True, False):
        attached = model("llama")
        split = encoded(attached.base, 0, tmp_path)
        settings = EvaluationSettings(tokens=256, scoring=ScoringSettings(share=share))
        with counted(attached.base) as calls:
            found = predict_split(attached, split, 0, settings)
        assert found.scores
        computed.append(max(call["input_ids"].numel() for call in calls))
    assert computed[0] < 0.7 * computed[1]


def test_many_windows_of_rows_give_each_row_its_own_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predicted("llama", tmp_path)
    monkeypatch.setattr("peml.evaluation.scoring.options._BATCHES_AT_ONCE", 0.5)
    parts = predicted("llama", tmp_path)
    assert parts.predicted == whole.predicted
    for one, two in zip(parts.scores, whole.scores, strict=True):
        assert one == pytest.approx(two, abs=1e-4)


def test_a_long_context_is_cut_on_the_left_and_its_options_are_whole(tmp_path: Path) -> None:
    attached = model("llama")
    base = attached.base
    long = [dict(row, start="the quick brown fox " * 40 + row["start"]) for row in ROWS]
    split = encode_split(Rows.from_list(long), TASKS[0], base.family, "score", cache=tmp_path)
    assert split.cut == len(ROWS)
    found = predict_split(attached, split, 0, EvaluationSettings())
    tokenizer = base.family.tokenizer
    for number, row in enumerate(long):
        whole = tokenizer(row["start"] + ":")["input_ids"]
        answers = [
            [*tokenizer(" " + option, add_special_tokens=False)["input_ids"], 2]
            for option in row["options"]
        ]
        room = base.family.max_length - max(map(len, answers))
        context = (whole[0], *whole[len(whole) - room + 1 :])
        requests = [Request(context, tuple(answer), 0) for answer in answers]
        expected = score_alone(base, requests, tokens=1)
        assert found.scores[number] == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_first_token_without_a_likelihood_does_not_count() -> None:
    """Nothing comes before it, so it is no part of the sum that is divided."""
    requests = [Request((), (5, 6, 2), 0), Request((4,), (5, 6, 2), 0)]
    found = normalise(
        torch.tensor([-6.0, -6.0]), requests, "tokens", model("llama").base.family.spelling
    )
    assert found.tolist() == [-3.0, -2.0]


def test_what_has_no_text_is_not_divided_by_its_bytes() -> None:
    spelling = model("llama").base.family.spelling
    with pytest.raises(DataError, match="has no text, so its score") as caught:
        normalise(torch.zeros(1), [Request((5,), (2,), 0)], "bytes", spelling)
    assert caught.value.allowed
    assert caught.value.action
