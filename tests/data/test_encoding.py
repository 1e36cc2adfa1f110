"""Encoding once: what is cached, what makes the cache stale, what is cut or refused."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from peml.data.encoding import encode_split
from peml.data.mapped import cache_folder
from peml.data.rows import Rows
from peml.errors import DataError, RunError
from peml.models.families import CausalFamily, EncoderFamily, Family
from peml.tasks import SOURCE_ROW, Task
from peml.testing.models import tiny_tokenizer
from tests.tasks.examples import choice, pair, sentiment

TEXTS = ["the dog", "the film was good and the dog does not mind", "bad", "a fox"]


def moods(texts: Sequence[str] = TEXTS) -> Rows:
    return Rows.from_list(
        [{"sentence": text, "label": n % 2, SOURCE_ROW: 10 + n} for n, text in enumerate(texts)]
    )


def family(max_length: int = 64, made: type[Family] = EncoderFamily) -> Family:
    kind = "encoder" if made is EncoderFamily else "causal"
    return made(tiny_tokenizer(kind), max_length=max_length, pooling="mean")  # type: ignore[arg-type]


def count_calls(family: Family) -> list[int]:
    """Rows the family has encoded so far, in a list that grows."""
    calls: list[int] = []
    encode = family.encode

    def counting(task: Task, example: Any, purpose: Any) -> Any:
        calls.append(example.index)
        return encode(task, example, purpose)

    family.encode = counting  # type: ignore[method-assign]
    return calls


def test_columns_describe_what_was_encoded(tmp_path: Path) -> None:
    split = encode_split(moods(), sentiment(), family(), "train", cache=tmp_path)
    ids = [tiny_tokenizer("encoder")(text)["input_ids"] for text in TEXTS]
    assert [row["input_ids"] for row in split.rows] == [[row] for row in ids]
    assert [row["targets"] for row in split.rows] == [[0.0], [1.0], [0.0], [1.0]]
    assert split.lengths.tolist() == split.tokens.tolist() == [len(row) for row in ids]
    assert split.sequences.tolist() == [1] * len(TEXTS) == [1] * len(split)
    assert split.cut == 0


def test_a_rows_loss_counts_what_its_label_does(tmp_path: Path) -> None:
    plain = encode_split(moods(), sentiment(), family(), "train", cache=tmp_path)
    weighed = encode_split(
        moods(), sentiment(), family(), "train", weights={1: 3.0}, cache=tmp_path
    )
    assert plain.rows.column("weight") == [1.0] * 4
    assert weighed.rows.column("weight") == [1.0, 3.0, 1.0, 3.0]


def test_options_are_sequences_of_one_example(tmp_path: Path) -> None:
    rows = Rows.from_list([{"start": "the fox", "options": ["jumps", "is red"], "answer": 1}])
    split = encode_split(rows, choice(), family(), "train", cache=tmp_path)
    (row,) = split.rows
    assert row["targets"] == [0.0, 1.0]
    assert split.sequences.tolist() == [2]
    assert split.lengths.tolist() == [max(map(len, row["input_ids"]))]
    assert split.tokens.tolist() == [sum(map(len, row["input_ids"]))]


def test_a_damaged_cache_file_is_made_again_with_a_notice(tmp_path: Path) -> None:
    before = encode_split(moods(), sentiment(), family(), "train", cache=tmp_path)
    (cached,) = tmp_path.rglob("*.arrow")
    content = cached.read_bytes()
    cached.write_bytes(content.replace(b"\x01", b"\x02", 1))
    with pytest.warns(UserWarning, match=f"{cached.name} is damaged: its checksum"):
        after = encode_split(moods(), sentiment(), family(), "train", cache=tmp_path)
    assert list(after.rows) == list(before.rows)
    assert cached.read_bytes() == content


def test_second_encoding_reads_the_cache(tmp_path: Path) -> None:
    first = family()
    calls = count_calls(first)
    before = encode_split(moods(), sentiment(), first, "train", cache=tmp_path)
    assert calls == [0, 1, 2, 3]
    again = family()
    calls = count_calls(again)
    after = encode_split(moods(), sentiment(), again, "train", cache=tmp_path)
    assert calls == []
    assert list(after.rows) == list(before.rows)
    assert after.rows.is_mapped


def test_a_text_that_was_cut_leaves_the_cache_of_later_splits_alone(tmp_path: Path) -> None:
    """A tokenizer remembers that it truncated; that is not part of what it would do."""
    for repeat in range(2):
        reader = family(max_length=8)
        calls = count_calls(reader)
        for texts in (TEXTS[:2], TEXTS[2:]):  # the last row of the first split is cut
            encode_split(moods(texts), sentiment(), reader, "train", cache=tmp_path)
        assert bool(calls) is (repeat == 0)


def other_template() -> dict[str, Any]:
    return {"task": sentiment(template="Now: {{ sentence }}")}


def other_tokenizer() -> dict[str, Any]:
    changed = family()
    changed.tokenizer.add_tokens(["dog"])
    return {"family": changed}


def other_end() -> dict[str, Any]:
    changed = family(made=CausalFamily)
    changed.tokenizer.eos_token = "<mask>"
    return {"family": changed}


def without_segments() -> dict[str, Any]:
    """DistilBERT and BERT have the same tokenizer.json; only one reads segment ids."""
    changed = family()
    changed.tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return {"family": changed}


@pytest.mark.parametrize(
    "change",
    [
        other_template,
        other_tokenizer,
        other_end,
        without_segments,
        lambda: {"task": sentiment(label_words=["no", "yes"])},
        lambda: {"family": family(max_length=32)},
        lambda: {"family": family(made=CausalFamily)},
        lambda: {"purpose": "score"},
        lambda: {"rows": moods([*TEXTS[:3], "two foxes"])},
    ],
    ids=[
        "template",
        "tokenizer",
        "eos",
        "segments",
        "words",
        "length",
        "family",
        "purpose",
        "rows",
    ],
)
def test_what_decides_the_encoding_makes_the_cache_stale(
    change: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    made = CausalFamily if change is other_end else EncoderFamily
    given: dict[str, Any] = {"rows": moods(), "task": sentiment(), "family": family(made=made)}
    changed = {**given, "purpose": "train"} | change()
    encode_split(**given, purpose="train", cache=tmp_path)
    calls = count_calls(changed["family"])
    encode_split(**changed, cache=tmp_path)
    assert len(calls) == len(TEXTS)


def test_what_does_not_decide_it_leaves_the_cache_valid(tmp_path: Path) -> None:
    encode_split(moods(), sentiment(), family(), "train", cache=tmp_path)
    reader = family()
    calls = count_calls(reader)
    task = sentiment(description="other words", metrics=["f1"], source={"path": "elsewhere"})
    encode_split(moods(), task, reader, "train", cache=tmp_path)
    assert calls == []


def test_cut_rows_are_counted_and_kept_within_the_limit(tmp_path: Path) -> None:
    texts = ["dog", "the quick brown fox jumps " * 5, "fox", "over the lazy dog " * 5]
    split = encode_split(moods(texts), sentiment(), family(12), "train", cache=tmp_path)
    assert split.cut == 2
    assert split.lengths.max() == 12
    assert split.lengths[0] < 12


def test_refusing_names_the_users_row_and_the_excess(tmp_path: Path) -> None:
    texts = ["dog", "fox", "the quick brown fox jumps " * 5, "dog"]
    excess = len(tiny_tokenizer("encoder")(texts[2])["input_ids"]) - 12
    for _ in range(2):  # fresh, and from the cache
        with pytest.raises(DataError, match="'mood', row 12") as caught:
            encode_split(
                moods(texts), sentiment(), family(12), "train", too_long="refuse", cache=tmp_path
            )
        assert f"{excess} tokens longer" in str(caught.value)
        assert "at most 12 tokens" in str(caught.value)


def test_a_row_that_fails_is_named_and_nothing_is_cached(tmp_path: Path) -> None:
    rows = Rows.from_list([{"first": "a", "second": "b", "label": n} for n in (0, 7)])
    with pytest.raises(DataError, match="'same', row 1"):
        encode_split(rows, pair(), family(), "train", cache=tmp_path)
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_full_disk_is_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError, match="the disk is full") as caught:
        encode_split(moods(), sentiment(), family(), "train", cache=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    encode_split(moods(), sentiment(), family(), "train")
    assert [path.name.startswith("mood-") for path in (tmp_path / "here").rglob("*.arrow")] == [
        True
    ]
