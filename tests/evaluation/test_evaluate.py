"""Scoring a split: every row in its place whatever the batches, for every family."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from peml.data.batch import TaskBatch
from peml.data.encoding import EncodedSplit, encode_split
from peml.data.rows import Rows
from peml.distributed import World
from peml.errors import ModelError
from peml.evaluation import EvaluationSettings, GoldSplit, predict_split
from peml.evaluation.evaluate import Predictions, read_gold, score_split
from peml.evaluation.metrics import METRICS
from peml.evaluation.mixed import EncodedRow, score_mixed
from peml.evaluation.settings import ScoringSettings
from peml.methods.attached import AttachedModel
from peml.models.limits import PASS_LIMITS, PassLimits
from tests.models.tasks import Row, batch_of, tiny_task_model
from tests.tasks.examples import choice, generation, score, sentiment
from tests.worlds import together, worlds

TASKS = (sentiment(), score(), choice(), generation())
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs")
COUNT = 7


def rows_of(task_id: int) -> list[Row]:
    """Rows of rising and falling length, so that batches don't keep their order."""
    texts = [" ".join(WORDS[n % 4 : n % 4 + 1 + 3 * n % 8]) for n in range(COUNT)]
    rows: list[list[Row]] = [
        [
            {"sentence": text, "label": n % 2},
            {"first": text, "second": "a fox", "score": n / 2},
            {"start": text, "options": ["no", *WORDS[n : n + 2]][: 2 + n % 2], "answer": n % 2},
            {"text": text, "target": text},
        ]
        for n, text in enumerate(texts)
    ]
    return [row[task_id] for row in rows]


def attached(name: str) -> AttachedModel:
    tasks = TASKS[:3] if name == "bert" else TASKS
    return AttachedModel(tiny_task_model(name, tasks), {})


def encoded(model: AttachedModel, task_id: int, folder: Path) -> EncodedSplit:
    purpose = "generate" if task_id == 3 else "score"
    rows = Rows.from_list(rows_of(task_id))
    return encode_split(rows, TASKS[task_id], model.base.family, purpose, cache=folder)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
@pytest.mark.parametrize("task_id", [0, 1, 2])
@pytest.mark.parametrize("tokens", [16, 4096])
def test_predictions_are_in_the_rows_order(
    name: str, task_id: int, tokens: int, tmp_path: Path
) -> None:
    model = attached(name)
    split = encoded(model, task_id, tmp_path)
    found = predict_split(model, split, task_id, EvaluationSettings(tokens=tokens))
    for number, row in enumerate(rows_of(task_id)):
        batch = batch_of(model.base, [(task_id, row)], "score")
        with torch.no_grad():
            answer = model.base.predict(model(batch), batch, task_id)[0]
        if task_id == 1:
            assert found.predicted[number] == pytest.approx(answer.item(), abs=1e-4)
            assert found.scores[number] == []
        else:
            assert found.predicted[number] == int(answer.argmax())
            assert found.scores[number] == pytest.approx(answer.tolist(), abs=1e-3)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_generated_texts_are_in_the_rows_order(name: str, tmp_path: Path) -> None:
    model = attached(name)
    split = encoded(model, 3, tmp_path)
    settings = EvaluationSettings(tokens=40, max_new_tokens=4)
    found = predict_split(model, split, 3, settings)
    alone = [
        model.base.generate(batch_of(model.base, [(3, row)], "generate"), max_new_tokens=4)[0]
        for row in rows_of(3)
    ]
    assert found.predicted == alone


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_cpu_scores_few_tokens_at_once(
    name: str, mixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attached(name)
    split = encoded(model, 0, tmp_path)
    passes: list[int] = []

    def scores() -> Any:
        if not mixed:
            return predict_split(model, split, 0, EvaluationSettings()).scores
        columns = split.rows.read(np.arange(COUNT))
        sizes = {"length": split.lengths, "sequences": split.sequences}
        rows = [
            EncodedRow(0, {what: values[n] for what, values in (columns | sizes).items()})
            for n in range(COUNT)
        ]
        return [each.tolist() for each in score_mixed(model.base, rows, EvaluationSettings())]

    expected = scores()
    words = model.base.backbone.get_input_embeddings().num_embeddings
    for module in model.base.backbone.modules():
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == words:
            module.register_forward_hook(lambda _, args, out: passes.append(args[0].numel()))
    scores()
    assert max(passes) > 80
    passes.clear()
    monkeypatch.setitem(PASS_LIMITS, "cpu", PassLimits(tokens=80, logits=2**23))
    found = scores()
    assert 0 < max(passes) <= 80
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, abs=1e-4)


def test_a_cpu_writes_texts_in_batches_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PASS_LIMITS, "cpu", PassLimits(tokens=16, logits=2**23))
    model = attached("llama")
    write = Mock(wraps=model.base.generate)
    monkeypatch.setattr(model.base, "generate", write)
    predict_split(model, encoded(model, 3, tmp_path), 3, EvaluationSettings(max_new_tokens=2))
    assert [len(call.args[0].rows) for call in write.call_args_list] == [COUNT]


def test_options_that_a_row_does_not_have_are_never_chosen(tmp_path: Path) -> None:
    model = attached("bert")
    found = predict_split(model, encoded(model, 2, tmp_path), 2, EvaluationSettings())
    counts = [len(row["options"]) for row in rows_of(2)]
    assert [len(scores) for scores in found.scores] == counts
    assert all(p < count for p, count in zip(found.predicted, counts, strict=True))


def test_metrics_are_of_the_predictions_and_the_ablation_is_around_them(tmp_path: Path) -> None:
    model = attached("bert")
    heads: Any = model.base.heads
    inside = []

    @contextmanager
    def always_first() -> Iterator[None]:
        with torch.no_grad():
            heads.bias[0] += 100
        inside.append(True)
        yield
        with torch.no_grad():
            heads.bias[0] -= 100

    split = GoldSplit(0, encoded(model, 0, tmp_path), [row["label"] for row in rows_of(0)])
    metrics, found = score_split(model, split, EvaluationSettings(), always_first())
    assert found.predicted == [0] * COUNT
    assert metrics == {"accuracy": pytest.approx(4 / 7)}
    plain, free = score_split(model, split, EvaluationSettings())
    right = sum(p == g for p, g in zip(free.predicted, split.gold, strict=True))
    assert plain["accuracy"] == pytest.approx(right / COUNT)
    assert inside == [True]


def test_several_right_texts_are_compared_with_the_text_chosen(tmp_path: Path) -> None:
    task = choice(metrics=["span_em", "span_f1"])
    model = AttachedModel(tiny_task_model("bert", (task,)), {})
    rows = Rows.from_list(
        [{"start": "a fox", "options": ["red", "blue", "grey"], "answer": right}
         for right in (["red", "grey"], ["blue"])]
    )  # fmt: skip
    encoded_rows = encode_split(rows, task, model.base.family, "score", cache=tmp_path)
    split = read_gold(task, 0, rows, encoded_rows, model.base.family.spelling)
    assert split.gold == [("red", "grey"), ("blue",)]
    chosen = predict_split(model, encoded_rows, 0, EvaluationSettings()).predicted[0]
    metrics, found = score_split(model, split, EvaluationSettings())
    text = ["red", "blue", "grey"][chosen]
    assert found.predicted == [text, text]
    assert metrics["span_em"] == ((text != "blue") + (text == "blue")) / 2


def test_evaluation_switches_dropout_off_and_leaves_no_gradient(tmp_path: Path) -> None:
    model = attached("bert").train()
    split = encoded(model, 0, tmp_path)
    first = predict_split(model, split, 0, EvaluationSettings())
    model.train()
    assert predict_split(model, split, 0, EvaluationSettings()) == first
    assert all(p.grad is None for p in model.parameters())


def test_parts_prepare_once_for_a_whole_split(tmp_path: Path) -> None:
    class Counting:
        name = "counting"
        calls = 0

        def prepare(self, batch: TaskBatch | None = None) -> None:
            self.calls += 1

    part: Any = Counting()
    model = AttachedModel(tiny_task_model("bert", TASKS[:3]), {"counting": part})
    split = encoded(model, 0, tmp_path)
    predict_split(model, split, 0, EvaluationSettings(tokens=16))
    assert part.calls == 1
    predict_split(model, split, 0, EvaluationSettings(tokens=16))
    assert part.calls == 2


BAD = "jumps"


def spoilt(name: str, number: float) -> AttachedModel:
    """A model that answers rows that hold one word with something that is no number."""
    model = attached(name)
    tokenizer, embedded = model.base.family.tokenizer, model.base.backbone.get_input_embeddings()
    spelled = torch.tensor(tokenizer(" " + BAD, add_special_tokens=False)["input_ids"][-1:])
    head = model.base.heads or model.base.backbone.get_output_embeddings()
    bad = torch.zeros(1, dtype=torch.bool)

    def look(_: Any, inputs: Any, __: Any) -> None:
        nonlocal bad
        ids = inputs[0]
        if ids.shape[1] > 1 or name == "bert":
            bad = torch.isin(ids, spelled).any(1)

    def spoil(_: Any, __: Any, output: Any) -> Any:
        output[bad] = number
        return output

    embedded.register_forward_hook(look)
    head.register_forward_hook(spoil)
    return model


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("task_id", [0, 1, 2])
def test_scores_that_are_no_numbers_are_an_error_that_names_the_rows(
    task_id: int, number: float, tmp_path: Path
) -> None:
    model = spoilt("bert", number)
    split = encoded(model, task_id, tmp_path)
    wrong = [n for n, row in enumerate(rows_of(task_id)) if BAD in str(row)]
    assert 0 < len(wrong) < COUNT
    named = rf"'{TASKS[task_id].name}': .* scores .* on {len(wrong)} rows.*: {wrong[0]}, {wrong[1]}"
    with pytest.raises(ModelError, match=named) as caught:
        predict_split(model, split, task_id, EvaluationSettings())
    assert "model.dtype" in caught.value.action
    rows = Rows.from_list(rows_of(task_id))
    gold = read_gold(TASKS[task_id], task_id, rows, split, model.base.family.spelling)
    other = replace(gold, numbers=[100 + n for n in range(COUNT)])
    with pytest.raises(ModelError, match=f": {100 + wrong[0]}, {100 + wrong[1]}"):
        score_split(model, other, EvaluationSettings())


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("task_id", [0, 1, 2, 3])
def test_text_models_without_numbers_give_no_answer(
    name: str, task_id: int, share: bool, tmp_path: Path
) -> None:
    model = attached(name)
    split = encoded(model, task_id, tmp_path)
    with torch.no_grad():
        model.base.backbone.get_output_embeddings().weight[40:50] = torch.nan
    settings = EvaluationSettings(scoring=ScoringSettings(share=share))
    what = "logits" if task_id == 3 else "scores"
    with pytest.raises(ModelError, match=rf"the model's {what} are NaN or infinite on 7 rows"):
        predict_split(model, split, task_id, settings)


def test_a_metric_that_is_no_number_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attached("bert")
    rows, split = Rows.from_list(rows_of(1)), encoded(model, 1, tmp_path)
    gold = read_gold(TASKS[1], 1, rows, split, model.base.family.spelling)
    monkeypatch.setitem(METRICS, "pearson", lambda gold, predicted: float("nan"))
    with pytest.raises(ModelError, match="the pearson is nan"):
        score_split(model, gold, EvaluationSettings())


@pytest.mark.parametrize(
    ("name", "task_id"),
    [("bert", 0), ("bert", 2), ("llama", 1), ("llama", 2), ("llama", 3), ("t5", 2), ("t5", 3)],
)
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("share", [True, False])
def test_processes_share_the_batches_and_say_the_same(
    name: str, task_id: int, size: int, share: bool, tmp_path: Path
) -> None:
    settings = EvaluationSettings(tokens=20, scoring=ScoringSettings(share=share))
    model = attached(name)
    split = encoded(model, task_id, tmp_path)
    calls: list[int] = []
    expected = predict_split(model, split, task_id, settings)

    def predict(world: World) -> Predictions:
        mine = copy.deepcopy(model)
        mine.base.world = world
        mine.base.backbone.register_forward_hook(lambda *_: calls.append(world.rank))
        return predict_split(mine, split, task_id, settings)

    for found in together([partial(predict, world) for world in worlds(size)]):
        assert found == expected
    assert set(calls) == set(range(size))  # each has computed something


def test_processes_name_all_rows_without_a_number(tmp_path: Path) -> None:
    """Whichever process has found them."""
    model = attached("bert")
    split = encoded(model, 0, tmp_path)
    with torch.no_grad():
        next(model.base.heads.parameters()).fill_(torch.nan)  # type: ignore[union-attr]
    settings = EvaluationSettings(tokens=20)

    def problem(world: World) -> str:
        mine = copy.deepcopy(model)
        mine.base.world = world
        with pytest.raises(ModelError) as raised:
            predict_split(mine, split, 0, settings)
        return raised.value.problem

    with pytest.raises(ModelError) as raised:
        predict_split(model, split, 0, settings)
    assert together([partial(problem, world) for world in worlds(2)]) == [raised.value.problem] * 2
