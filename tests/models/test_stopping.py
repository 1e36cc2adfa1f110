"""Stop strings: texts end before them, one by one and in a batch, with whatever is in front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peml.data.encoding import encode_split
from peml.data.rows import Rows
from peml.errors import ModelError
from peml.evaluation import EvaluationSettings, predict_split
from peml.injection.inject import attach_prefix
from peml.methods.attached import AttachedModel
from peml.models import TaskModel
from peml.models.families.stopping import stopping_criteria
from peml.models.room import check_generation
from tests.injection.common import with_random_prefix
from tests.models.tasks import Row, collate, encode, tiny_family, tiny_task_model
from tests.tasks.examples import generation

TEXTS = ("the dog", "the quick brown fox jumps over", "is this", "a man is walking and a fox")
MODELS = ["llama", "gpt2", "t5"]


def made(name: str, in_front: str) -> tuple[TaskModel, list[Any]]:
    # A random T5 whose embeddings are tied and small repeats its padding.
    talkative: Row = {"tie_word_embeddings": False, "initializer_factor": 2.0}
    model = tiny_task_model(name, (generation(),), **(talkative if name == "t5" else {}))
    if in_front == "prefix":
        with_random_prefix(attach_prefix(model.backbone))
    if in_front == "prompt":
        vectors = model.backbone.get_input_embeddings()(torch.tensor([40, 77, 300]))
        model.prompt.set(vectors.detach())
    rows = [{"text": text, "target": ""} for text in TEXTS]
    encoded = encode(model.family, model.tasks[0], rows, "generate")
    return model, [(0, sequences) for sequences in encoded]


def together(model: TaskModel, encoded: list[Any], **options: Any) -> list[str]:
    batch = collate(model.family, encoded, left=model.family.name == "causal")
    return [str(text) for text in model.generate(batch, max_new_tokens=8, **options)]


def pieces(texts: list[str]) -> list[str]:
    """A string of two characters from the middle of two of the texts."""
    return [text[len(text) // 2 :].replace(" ", "")[:2] for text in texts[:2]]


@pytest.mark.parametrize("in_front", ["nothing", "prefix", "prompt"])
@pytest.mark.parametrize("name", MODELS)
def test_a_text_ends_before_the_first_stop_string_whatever_the_batch(
    name: str, in_front: str
) -> None:
    model, encoded = made(name, in_front)
    whole = [together(model, [one])[0] for one in encoded]
    assert together(model, encoded) == whole
    stop = pieces(whole)
    wanted = []
    for text in whole:
        places = [text.find(each) for each in stop if each in text]
        wanted.append(text[: min(places, default=len(text))].strip())
    assert wanted != whole
    assert together(model, encoded, stop=stop) == wanted
    assert [together(model, [one], stop=stop)[0] for one in encoded] == wanted


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_ends_when_its_last_row_has_stopped(name: str) -> None:
    model, encoded = made(name, "nothing")
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    whole = [together(model, [one])[0] for one in encoded]
    head = model.backbone.get_output_embeddings()
    with_hook = head.register_forward_hook(count)
    together(model, encoded)
    unhindered, calls = calls, 0
    together(model, encoded, stop=[text[:1] for text in whole if text])
    with_hook.remove()
    assert unhindered == 8
    assert calls < 8


def test_what_begins_in_the_prompt_is_no_stop_string() -> None:
    spelling = tiny_family("llama").spelling
    tokenizer = spelling.tokenizer
    ids = torch.tensor([tokenizer("the dog the fox", add_special_tokens=False)["input_ids"]])
    whole = tokenizer.decode(ids[0])
    given = 2
    seam = tokenizer.decode(ids[0, given - 1 : given + 1])
    assert seam in whole
    (criterion,) = stopping_criteria(spelling, given, {"max_new_tokens": 9, "stop": [seam]})
    assert not criterion(ids, None).any()
    (criterion,) = stopping_criteria(spelling, 0, {"max_new_tokens": 9, "stop": [seam]})
    assert criterion(ids, None).all()
    assert not stopping_criteria(spelling, 0, {"max_new_tokens": 9})


def test_a_tasks_own_limit_has_to_fit_as_well() -> None:
    family = tiny_family("gpt2", max_length=24)
    family.positions = 40
    long = generation(name="long", max_new_tokens=17)
    check_generation(family, [generation(), generation(name="short", max_new_tokens=16)], 16)
    with pytest.raises(ModelError, match=r"long: 17 new tokens .* 24 tokens"):
        check_generation(family, [generation(), long], 16)


def test_white_space_that_a_prompt_leaves_to_its_answer_is_no_stop_string(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A prompt's line break is the first thing the model writes; the text ends at the second."""
    task = generation(template="{{ text }}\n", stop=["\n"])
    model = tiny_task_model("llama", (task,))
    tokenizer = model.family.tokenizer
    rows = Rows.from_list([{"text": text, "target": ""} for text in ("the dog", "a fox")])
    split = encode_split(rows, task, model.family, "generate", cache=tmp_path)
    assert tokenizer.decode(split.rows[0]["input_ids"][0]) == "<s>the dog"
    spoken = ["\nthe fox\nthe", "the\n"]
    done = []

    def generate(input_ids: Tensor, **given: Any) -> Tensor:
        said = tokenizer(spoken, add_special_tokens=False, padding=True, return_tensors="pt")
        given["logits_processor"](input_ids, torch.zeros(2, len(tokenizer)))
        for length in range(1, said.input_ids.shape[1] + 1):
            whole = torch.cat([input_ids, said.input_ids[:, :length]], 1)
            done.append(given["stopping_criteria"](whole, None).tolist())
        return whole

    monkeypatch.setattr(model.backbone, "generate", generate)
    found = predict_split(AttachedModel(model, {}), split, 0, EvaluationSettings())
    order = [list(one) for one in zip(*done, strict=True)]
    assert sorted(found.predicted) == ["the", "the fox"]
    assert not order[0][0]
    assert order[0][-1]
    assert order[1][-1]
