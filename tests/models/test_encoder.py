"""The encoder family: segments, cutting, pooling, mixed batches, padding."""

from __future__ import annotations

import pytest
import torch

from peml.errors import DataError
from peml.models import TaskModel
from peml.models.families.base import pad_groups
from tests.models.tasks import Row, batch_of, encode, gradients, tiny_family, tiny_task_model
from tests.tasks.examples import choice, pair, score, sentiment

TASKS = (sentiment(), pair(), score(), choice())
ROWS: list[tuple[int, Row]] = [
    (0, {"sentence": "the film was good", "label": 1}),
    (1, {"first": "a dog", "second": "the lazy dog does not mind", "label": 0}),
    (2, {"first": "a man is walking", "second": "a person is moving", "score": 3.5}),
    (3, {"start": "the ball is in", "options": ["the box", "a quick fox", "no"], "answer": 2}),
    (0, {"sentence": "bad", "label": 0}),
    (3, {"start": "yes", "options": ["no", "the answer is yes"], "answer": 0}),
]


def model(pooling: str = "mean") -> TaskModel:
    return tiny_task_model("bert", TASKS, pooling=pooling)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_mixed_batch_equals_each_row_alone(pooling: str) -> None:
    """Also shows that padding and neighbours change nothing."""
    mixed = model(pooling)
    output = mixed(batch_of(mixed, ROWS))
    output.loss.backward()
    together = gradients(mixed)
    mixed.zero_grad()
    losses = []
    for row in ROWS:
        alone = mixed(batch_of(mixed, [row]))
        (alone.loss / len(ROWS)).backward()
        losses.append(alone.loss.detach())
    torch.testing.assert_close(output.losses.detach(), torch.stack(losses), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.loss.detach(), torch.stack(losses).mean())
    assert set(together) == {"heads.weight", "heads.bias"}
    for name, gradient in gradients(mixed).items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task_id", range(4))
def test_mixed_batch_equals_batches_of_each_task(task_id: int) -> None:
    mixed = model()
    output = mixed(batch_of(mixed, ROWS))
    kept = [number for number, (task, _) in enumerate(ROWS) if task == task_id]
    alone = mixed(batch_of(mixed, [ROWS[number] for number in kept]))
    torch.testing.assert_close(output.losses[kept], alone.losses, rtol=1e-5, atol=1e-6)


def test_pooling_is_over_real_tokens() -> None:
    mean, first = model("mean"), model("first")
    batch = batch_of(mean, ROWS[:1] + ROWS[4:5])
    assert batch.token_type_ids is not None
    hidden = mean.backbone(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        token_type_ids=batch.token_type_ids,
    ).last_hidden_state
    real = int(batch.attention_mask[1].sum())
    assert real < hidden.shape[1]
    assert isinstance(mean.heads, torch.nn.Module)
    expected = mean.heads(hidden[1, :real].mean(0, keepdim=True))
    torch.testing.assert_close(mean(batch).scores[1:2], expected, rtol=1e-5, atol=1e-5)
    assert isinstance(first.heads, torch.nn.Module)
    torch.testing.assert_close(first(batch).scores, first.heads(hidden[:, 0]))


def test_predictions_are_the_tasks_own() -> None:
    mixed = model()
    for task_id, options in ((0, 2), (1, 2), (3, 3)):
        batch = batch_of(mixed, [row for row in ROWS if row[0] == task_id])
        scores = mixed.predict(mixed(batch), batch, task_id)
        assert scores.shape == (batch.examples, options)
    batch = batch_of(mixed, [ROWS[3], ROWS[5]])
    scores = mixed.predict(mixed(batch), batch, 3)
    assert scores.isfinite().tolist() == [[True] * 3, [True, True, False]]
    # The loss of a choice is the negative log probability of the right option.
    right = torch.tensor([2, 0])
    expected = -scores.log_softmax(1).gather(1, right[:, None]).squeeze(1)
    torch.testing.assert_close(mixed(batch).losses, expected, rtol=1e-5, atol=1e-6)


def test_a_regressions_prediction_is_on_its_scale() -> None:
    mixed = model()
    batch = batch_of(mixed, [ROWS[2]])
    output = mixed(batch)
    predicted = mixed.predict(output, batch, 2)
    # A scale from 0 to 5 is trained as -2 to 2: one point of it is 0.8.
    assert output.loss.item() == pytest.approx((0.8 * (predicted.item() - 3.5)) ** 2, rel=1e-4)


def test_segments_become_segment_ids() -> None:
    family = tiny_family("bert")
    ((single,),) = encode(family, TASKS[0], [ROWS[0][1]], "train")
    ((double,),) = encode(family, TASKS[1], [ROWS[1][1]], "train")
    assert set(single.token_type_ids or ()) == {0}
    assert set(double.token_type_ids or ()) == {0, 1}
    text = family.tokenizer.decode(double.input_ids)
    assert text == "<s>a dog</s>the lazy dog does not mind</s>"


def test_an_option_is_read_after_its_context() -> None:
    family = tiny_family("bert")
    (options,) = encode(family, TASKS[3], [ROWS[3][1]], "score")
    assert [s.target for s in options] == [0.0, 0.0, 1.0]
    assert [family.tokenizer.decode(s.input_ids) for s in options] == [
        f"<s>the ball is in</s>{option}</s>" for option in ("the box", "a quick fox", "no")
    ]


def test_a_long_pair_is_cut_at_its_longer_text() -> None:
    family = tiny_family("bert", max_length=20)
    row = {"first": "a dog", "second": "the lazy dog does not mind " * 6, "label": 0}
    ((sequence,),) = encode(family, TASKS[1], [row], "train")
    whole = family.tokenizer(row["first"], row["second"])["input_ids"]
    assert len(sequence.input_ids) == 20
    assert sequence.cut == len(whole) - 20
    text = family.tokenizer.decode(sequence.input_ids)
    assert text.startswith("<s>a dog</s>the lazy dog")
    assert text.endswith("</s>")


def test_a_long_context_loses_its_beginning_and_no_option_is_cut() -> None:
    family = tiny_family("bert", max_length=20)
    row = {"start": "the lazy dog " * 9 + "is in", "options": ["the box", "the quick fox"]}
    whole = family.tokenizer(row["start"], add_special_tokens=False)["input_ids"]
    (sequences,) = encode(family, TASKS[3], [row | {"answer": 1}], "score")
    for sequence, option in zip(sequences, row["options"], strict=True):
        wanted = family.tokenizer(option, add_special_tokens=False)["input_ids"]
        kept = whole[len(wanted) + 3 - 20 :]
        start, end = family.tokenizer.cls_token_id, family.tokenizer.sep_token_id
        assert sequence.input_ids == [start, *kept, end, *wanted, end]
        assert sequence.cut == len(whole) - len(kept)
    assert family.tokenizer.truncation_side == "right"


def test_pad_groups_puts_options_side_by_side() -> None:
    scores = torch.arange(6.0)
    padded = pad_groups(scores, torch.tensor([0, 0, 1, 2, 2, 2]), 3)
    none = -torch.inf
    assert padded.tolist() == [[0, 1, none], [2, none, none], [3, 4, 5]]


def test_an_encoder_generates_no_text() -> None:
    mixed = model()
    with pytest.raises(NotImplementedError, match="encoder"):
        mixed.generate(batch_of(mixed, ROWS[:1]), max_new_tokens=2)


def test_options_of_the_same_tokens_are_refused() -> None:
    """Their scores would be equal, and the first one the answer."""
    family = tiny_family("bert", max_length=16)
    for options in (["\u2603" * 20, "\u2603" * 21], ["the dog " * 9 + "a", "the dog " * 9 + "b"]):
        row = {"start": "the ball", "options": ["no", *options], "answer": 0}
        with pytest.raises(DataError, match=r"options 1 and 2 \(from 0\), .* the same tokens"):
            encode(family, choice(), [row], "score")
    encode(family, choice(), [row | {"options": ["no", "yes", "yes"]}], "score")
