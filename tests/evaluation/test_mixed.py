"""Rows of several tasks in one batch have the scores that they have alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peml.data.encoding import encode_row, encode_rows
from peml.data.task_columns import read_list
from peml.evaluation import EvaluationSettings, predict_split
from peml.evaluation.mixed import EncodedRow, score_mixed
from peml.evaluation.settings import ScoringSettings
from peml.injection.packing import enable_packing
from peml.serving.predictor import Predictor
from peml.tasks import TaskRenderer
from tests.models.tasks import tiny_task_model
from tests.tasks.examples import choice, score, sentiment

TASKS = (
    sentiment(),
    choice(normalisation="pmi"),
    score(),
    sentiment(name="bytes", normalisation="bytes"),
)
WORDS = ("dog", "the red ball is in the green box", "fox", "a man is walking")


def _row(task_id: int, word: str) -> dict[str, Any]:
    if task_id == 1:
        options = ["yes", "a dog", "the lazy fox"]
        return {"start": word, "options": options[: 2 + len(word) % 2]}
    return {"first": word, "second": "the answer"} if task_id == 2 else {"sentence": word}


@pytest.mark.parametrize("tokens", [32, 8192])
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("base", ["bert", "llama", "t5"])
def test_they_agree(base: str, packs: bool, tokens: int) -> None:
    if packs and base != "bert":
        pytest.skip("options are not packed")
    model = tiny_task_model(base, TASKS).eval()
    if model.heads is not None:
        with torch.no_grad():
            for parameter in model.heads.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    if packs:
        enable_packing(model.backbone, 32)
    settings = EvaluationSettings(tokens=tokens, scoring=ScoringSettings(normalisation="tokens"))
    asked = [(task_id, word) for word in WORDS for task_id in range(4)]
    rows, wanted = [], []
    for task_id, word in asked:
        task = model.tasks[task_id]
        read = read_list([_row(task_id, word)], task)[0]
        example = TaskRenderer(task).render(read, 0, labelled=False)
        rows.append(EncodedRow(task_id, encode_row(example, task, model.family, "score")))
        split = encode_rows([example], task, model.family, "score")
        answer = predict_split(Predictor(model), split, task_id, settings)
        wanted.append(answer.scores[0] or answer.predicted[0])
    found = [scores.tolist() for scores in score_mixed(model, rows, settings, packs=packs)]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert len({str(scores) for scores in wanted}) > 3 * len(WORDS)
