from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peml.data.rows import Rows
from peml.data.settings import TasksSettings
from peml.data.sources import load_task_data
from peml.data.splits import carve_development, carve_indices, draw_indices
from peml.errors import DataError
from tests.data.rows import moods, write_jsonl
from tests.tasks import examples

_STRATA = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=2, max_size=200)


@settings(deadline=None)
@given(_STRATA, st.data(), st.integers(0, 5))
def test_carving_is_disjoint_exhaustive_and_proportional(
    strata: list[str | None], data: st.DataObject, seed: int
) -> None:
    size = data.draw(st.integers(1, len(strata) - 1))
    kept, carved = (part.tolist() for part in carve_indices(strata, size, seed))
    assert len(carved) == size
    assert sorted(kept + carved) == list(range(len(strata)))
    assert kept == sorted(kept)
    assert carved == sorted(carved)
    counts = Counter(strata[index] for index in carved)
    for stratum, count in Counter(strata).items():
        assert abs(counts[stratum] - size * count / len(strata)) < 1
    again = carve_indices(iter(strata), size, seed)
    assert [part.tolist() for part in again] == [kept, carved]


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 200), st.integers(0, 5))
def test_a_smaller_draw_is_part_of_a_larger(count: int, one: int, two: int, seed: int) -> None:
    small, large = (draw_indices(count, most, seed).tolist() for most in sorted((one, two)))
    assert set(small) <= set(large) <= set(range(count))
    assert len(large) == min(count, max(one, two))
    assert large == sorted(set(large))


def test_another_seed_carves_other_rows() -> None:
    rows = Rows.from_list(moods(300))
    task = examples.sentiment()
    carved = [carve_development(rows, task, seed)[1].column("idx") for seed in (0, 0, 1)]
    assert carved[0] == carved[1]
    assert carved[0] != carved[2]


def test_the_size_is_a_share_with_an_upper_bound() -> None:
    rows = Rows.from_list(moods(300))
    task = examples.sentiment(development={"fraction": 0.2, "at_most": 50})
    train, development = carve_development(rows, task, 0)
    assert (len(train), len(development)) == (250, 50)
    assert Counter(development.column("label"))[1] in (16, 17)  # a third, as in the whole
    assert len(carve_development(rows.select(range(3)), task, 0)[1]) == 1


def test_one_row_can_not_be_split() -> None:
    with pytest.raises(DataError, match="1 train row"):
        carve_development(Rows.from_list(moods(1)), examples.sentiment(), 0)


def test_capping_the_train_rows_leaves_the_development_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "mood" / f"{split}.jsonl", moods(100))

    def load(rows: int | None) -> tuple[list[str], list[str], int]:
        settings = TasksSettings(suite="x", source=str(tmp_path), rows=rows, evaluation_rows=7)
        data = load_task_data(examples.sentiment(), settings, 0)
        return (
            data.train.column("sentence"),
            data.development.column("sentence"),
            len(data.reported),
        )

    train, development, reported = load(None)
    some, same_development, _ = load(20)
    assert development == same_development
    assert len(some) == 20
    assert set(some) <= set(train)
    assert not set(train) & set(development)
    assert len(train) + len(development) == 100
    assert reported == 7
