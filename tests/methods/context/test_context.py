"""A held context answers as the same text in front of every row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from peml.data import TaskBatch
from peml.errors import ConfigError, DataError, ModelError, TaskError
from peml.export import load_model, save_model
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.context.part import ContextPart
from peml.methods.context.settings import ContextSettings, LoraContextSettings
from peml.methods.lora.settings import LoraMethodSettings
from peml.methods.registry import build_method
from peml.tasks import Chat, Shots, Task
from peml.testing import TINY_ROWS, TINY_TASKS, batch_of, tiny_task_model

ROTARY = ["llama", "qwen3", "phi", "gpt-neox"]
EXAMPLES = {
    "mood": ("the dog was good It is good", "the box was bad It is bad"),
    "same": ("a man and the box are different",),
    "closeness": ("a man / a person score 2", "yes / no score 0", "a / a score 2"),
}


def tasks_with(place: str) -> tuple[Task, ...]:
    """The tiny tasks with solved rows in prompts, or as contexts."""
    update = {"header": "Answer in one word.", "context": place == "context"}
    return tuple(
        task.model_copy(update={**update, "shots": Shots(examples=EXAMPLES[task.name])})
        for task in TINY_TASKS
    )


def attached(name: str, of: str = "frozen", tasks: Sequence[Task] | None = None) -> AttachedModel:
    model = tiny_task_model(name, tasks or tasks_with("context"))
    settings = LoraContextSettings.model_validate(
        {"name": "lora+context", "lora": {"r": 4}, "context": {"of": of}}
    )
    context = AttachContext(seed=0, calibrate=lambda: None)
    return build_method(settings).attach(model, context).eval()


@torch.no_grad()
def in_prompts(name: str) -> Tensor:
    model = tiny_task_model(name, tasks_with("prompt")).eval()
    model.family.max_length = 160
    scores: Tensor = model(batch_of(model, TINY_ROWS, "score")).scores
    return scores


def _raise(model: AttachedModel) -> None:
    """Gives the LoRA something to say."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in (p for group in model.groups() for p in group.parameters):
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("of", ["frozen", "adapted"])
@pytest.mark.parametrize("name", ROTARY)
def test_untrained_it_scores_as_with_the_text_in_every_prompt(name: str, of: str) -> None:
    model = attached(name, of)
    batch = batch_of(model.base, TINY_ROWS, "score")
    with torch.no_grad():
        held = model(batch).scores
    whole = in_prompts(name)
    torch.testing.assert_close(held, whole, atol=1e-4, rtol=0)
    other = attached(
        name, of, [task.model_copy(update={"header": "No."}) for task in tasks_with("context")]
    )
    with torch.no_grad():
        assert (other(batch).scores - whole).abs().max() > 1e-2


def test_rows_lose_exactly_the_contexts_tokens() -> None:
    model = attached("llama")
    part = model.parts["context"]
    assert isinstance(part, ContextPart)
    shown = tiny_task_model("llama", tasks_with("prompt"))
    shown.family.max_length = 160
    for row in TINY_ROWS:
        (short,), (whole,) = (
            batch_of(m, [row], "train").input_ids.tolist() for m in (model.base, shown)
        )
        assert part.tokens[row[0]] + short == whole


@pytest.mark.parametrize("name", ["gpt2", "opt", "mistral"])
def test_a_model_that_would_answer_differently_is_refused(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        attached(name)
    assert "context" in str(caught.value)
    assert caught.value.action


def test_trained_contexts_of_the_adapted_model_are_text_for_the_merged_one(tmp_path: Path) -> None:
    model = attached("llama", "adapted")
    _raise(model)
    with torch.no_grad():
        trained = model(batch_of(model.base, TINY_ROWS, "score")).scores
    save_model(model, tmp_path / "model", LoraContextSettings())
    loaded = load_model(tmp_path / "model")
    with torch.no_grad():
        again = loaded(batch_of(loaded, TINY_ROWS, "score")).scores
    torch.testing.assert_close(again, trained, atol=1e-4, rtol=0)
    # The same weights, with the text in front of every row instead.
    plain = tiny_task_model("llama", tasks_with("prompt")).eval()
    plain.family.max_length = 160
    plain.backbone.load_state_dict(loaded.backbone.state_dict())
    with torch.no_grad():
        texts = plain(batch_of(plain, TINY_ROWS, "score")).scores
    torch.testing.assert_close(texts, trained, atol=1e-4, rtol=0)


def _gradients(model: AttachedModel, batch: TaskBatch) -> list[Tensor]:
    model.zero_grad()
    model.train()(batch).loss.backward()
    return [
        p.grad.clone() for group in model.groups() for p in group.parameters if p.grad is not None
    ]


def test_gradients_of_the_adapted_context_are_those_of_the_text() -> None:
    model = attached("llama", "adapted")
    shown = tiny_task_model("llama", tasks_with("prompt"))
    shown.family.max_length = 160
    context = AttachContext(seed=0, calibrate=lambda: None)
    lora = build_method(LoraMethodSettings(r=4)).attach(shown, context)
    _raise(model)
    _raise(lora)
    held = _gradients(model, batch_of(model.base))
    text = _gradients(lora, batch_of(shown))
    for ours, theirs in zip(held, text, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_switched_off_rows_are_read_alone() -> None:
    model = attached("llama")
    batch = batch_of(model.base, TINY_ROWS, "score")
    with torch.no_grad(), model.parts["context"].disabled():
        off = model(batch).scores
    with torch.no_grad():
        assert (model(batch).scores - off).abs().max() > 1e-2
        alone = tiny_task_model("llama", tasks_with("context")).eval()(batch).scores
    torch.testing.assert_close(off, alone)


def test_generation_goes_on_from_the_context() -> None:
    model = attached("llama")
    shown = tiny_task_model("llama", tasks_with("prompt")).eval()
    shown.family.max_length = 160
    texts = []
    for base in (model.base, shown):
        if base is model.base:
            model.prepare()
        batch = batch_of(base, TINY_ROWS, "generate", left=True)
        texts.append(base.generate(batch, max_new_tokens=5))
    assert texts[0] == texts[1]


def test_rows_are_chosen_by_a_known_way_or_a_file() -> None:
    with pytest.raises(ValidationError, match="Did you mean 'first'"):
        ContextSettings(choose="frist")
    with pytest.raises(DataError, match=r"none\.csv is not there"):
        ContextSettings(choose="none.csv").hold(TINY_TASKS)


def test_what_has_nothing_to_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither a header nor a description"):
        ContextSettings(instruction=True).hold(TINY_TASKS)
    shown = [task.model_copy(update={"shots": Shots(count=2)}) for task in TINY_TASKS]
    with pytest.raises(ConfigError, match="solved rows in its prompts"):
        ContextSettings().hold(shown)
    chats = [task.model_copy(update={"chat": Chat()}) for task in TINY_TASKS]
    with pytest.raises(ConfigError, match="asked through the chat template"):
        ContextSettings().hold(chats)
    by_row = [
        task.model_copy(update={"header": "{{ text }}"}) for task in tasks_with("context")[:1]
    ]
    with pytest.raises(TaskError, match="depends on the row"):
        attached("llama", tasks=by_row)


@pytest.mark.parametrize("learned", [True, False])
def test_a_context_that_leaves_no_positions_for_rows_is_refused(learned: bool) -> None:
    long = [task.model_copy(update={"header": "the dog " * 60}) for task in tasks_with("context")]
    model = tiny_task_model("llama", long, max_position_embeddings=160)
    model.family.positions = 160 if learned else None
    method, context = build_method(LoraContextSettings()), AttachContext(0, lambda: None)
    with pytest.raises(ModelError, match="160 positions"):
        method.attach(model, context)


def test_rows_without_a_limit_of_their_own_get_the_positions_that_are_left() -> None:
    model = tiny_task_model("llama", tasks_with("context"), max_position_embeddings=160)
    model.family.max_length, model.family.follows_rows = 160, True
    attached = build_method(LoraContextSettings()).attach(model, AttachContext(0, lambda: None))
    part = attached.parts["context"]
    assert isinstance(part, ContextPart)
    assert model.family.max_length == 160 - max(map(len, part.tokens))


def test_an_encoder_reads_its_context_alone() -> None:
    model = attached("bert")
    batch = batch_of(model.base, TINY_ROWS)
    bare = tiny_task_model("bert")
    assert batch.input_ids.tolist() == batch_of(bare, TINY_ROWS).input_ids.tolist()
    with torch.no_grad():
        held = model(batch).scores
        with model.parts["context"].disabled():
            alone = model(batch).scores
    assert (held - alone).abs().max() > 1e-3
