"""What a predictor answers, against the model's own scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from peml.errors import DataError, ModelError, PemlError, TaskError
from peml.export import save_model
from peml.methods.base import AttachContext
from peml.methods.registry import build_method
from peml.models import ModelSettings, TaskModel, choose_device, load_backbone
from peml.serving.predictor import Predictor, load
from peml.testing import save_tiny_model
from tests.export.trained import settings_of
from tests.models.tasks import Row, batch_of, tiny_task_model
from tests.tasks.examples import choice, generation, score, sentiment

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


def test_frames_texts_and_a_single_row_are_no_list_of_rows(predictor: Predictor) -> None:
    table: Any = Dataset.from_list(ROWS[0])
    assert predictor.predict("mood", table) == predictor.predict("mood", ROWS[0])
    for frame in (table.to_pandas(), table.to_pandas()[["sentence"]]):
        with pytest.raises(DataError, match=r"rows: DataFrame") as caught:
            predictor.predict("mood", frame)
        assert "rows.astype(object).where(rows.notna(), None).to_dict" in caught.value.action
        listed = frame.astype(object).where(frame.notna(), None).to_dict("records")
        assert predictor.predict("mood", listed) == predictor.predict("mood", ROWS[0])
    wrong: list[tuple[Any, str]] = [
        (["the dog"], "'the dog' is no row"),
        ({"sentence": "the dog"}, "rows: dict"),
        ("the dog", "rows: str"),
        ((row for row in ROWS[0]), "rows: generator"),
    ]
    for given, said in wrong:
        with pytest.raises(DataError, match=said):
            predictor.predict("mood", given)


def test_rows_are_read_as_files_are(predictor: Predictor) -> None:
    row = {"start": "dog", "options": ["7", "8", "2.5"]}
    spelled, numbers = predictor.predict("ending", [row, row | {"options": [7, 8.0, 2.5]}])
    assert numbers == spelled
    with pytest.raises(DataError, match=r"row 1 \(from 0\), field 'start': null"):
        predictor.predict("ending", [row, row | {"start": None}])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"device": "gpu"}, "auto"),
        ({"device": "cuda:99"}, "sees"),
        ({"dtype": "float8"}, "bfloat16"),
        ({"batch_tokens": 15}, "16 or more"),
    ],
)
def test_what_there_is_not_is_refused_before_anything_is_read(
    asked: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(PemlError) as caught:
        load(tmp_path / "nowhere", **asked)
    value = str(next(iter(asked.values())))
    assert value in caught.value.problem
    assert said in str(caught.value)
    assert caught.value.allowed
    assert caught.value.action


def test_without_a_gpu_auto_is_the_cpu_and_cuda_says_that_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ModelError, match="no CUDA GPUs"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ModelError, match="sees 2 CUDA GPUs"):
        choose_device("cuda:2")


def test_a_long_row_leaves_room_for_prompt_and_answer(tmp_path: Path) -> None:
    base = save_tiny_model("gpt2", tmp_path / "base")
    loaded = load_backbone(ModelSettings(name=str(base), max_length=64))
    task, settings = generation(), settings_of("prompt-tuning")
    context = AttachContext(seed=0, calibrate=lambda: None)
    attached = build_method(settings).attach(TaskModel(loaded, (task,)), context)
    unlimited = loaded.settings.model_copy(update={"max_length": None})
    attached.base.settings = unlimited  # as in a run whose config sets none
    save_model(attached, tmp_path / "model", settings)
    model = load(tmp_path / "model")
    family = model.base.family
    longest = task.max_new_tokens or model.evaluation.max_new_tokens
    assert family.positions is not None
    assert family.max_length == family.positions - 2 - longest
    row = dict.fromkeys(task.columns.inputs, "the dog " * family.positions)
    assert model.predict(task.name, [row])[0].cut > 0
