"""The harness on an exported model: the harness itself where it is installed, else by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from peml.errors import RunError
from peml.export import export_model, load_model
from peml.tasks import load_suite
from peml.testing import tiny_task_model
from tests.benchmarks.conftest import Script, scored_rows


def by_hand(exported: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the harness would log, one option at a time and without batches."""
    tokenizer = AutoTokenizer.from_pretrained(exported)
    model = AutoModelForCausalLM.from_pretrained(exported)
    model = PeftModel.from_pretrained(model, exported / "adapter").eval()
    samples = []
    for row in rows:
        context, said = row["question"], []
        start = len(tokenizer(context).input_ids)
        for option in row["options"]:
            ids = torch.tensor([tokenizer(f"{context} {option}").input_ids])
            with torch.no_grad():
                scores = model(input_ids=ids).logits.log_softmax(-1)
            chosen = scores[0, start - 1 : -1].gather(1, ids[0, start:, None])
            said.append([str(chosen.sum().item()), "False"])
        pairs = ({"arg_0": context, "arg_1": f" {option}"} for option in row["options"])
        arguments = {f"gen_args_{number}": pair for number, pair in enumerate(pairs)}
        samples.append({"doc": row, "arguments": arguments, "filtered_resps": said})
    return samples


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_likelihoods_are_those_of_the_standard_libraries(
    script: Script, tmp_path: Path, family: str
) -> None:
    harness = script("harness_agreement")
    run = harness.make_run(tmp_path, family)
    out, _ = export_model(run, tmp_path / "out", "peft")
    model = load_model(run / "model")
    logged = {
        kind: by_hand(out, harness.write_rows(4, long=kind == "long", seed=3))
        for kind in ("short", "long")
    }
    figures = harness.compare(model, logged, 0)
    assert all(figure.holds for figure in figures if figure.target)
    worth = [figure.value for figure in figures if "by the prefix" in figure.name]
    assert len(worth) == 2
    assert min(worth) > 0.1, "a lost prefix would not show"

    said = logged["long"][0]["filtered_resps"]
    min(said, key=lambda pair: float(pair[0]))[0] = "9.0"  # the worst option is now the best
    broken = {figure.name: figure.holds for figure in harness.compare(model, logged, 0)}
    assert broken["short, 0-shot: difference"]
    assert not broken["long, 0-shot: difference"]
    assert not broken["long, 0-shot: other predictions"]


def test_without_the_harness_the_extra_is_named(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = script("harness_agreement")
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"pip install 'peml\[harness\]'"):
        harness.run_harness(tmp_path, tmp_path, ["peml_agreement_short"], 0)


def test_the_harness_agrees(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval")
    script("harness_agreement").main(["--rows", "4"])
    assert "NO" not in capsys.readouterr().out


def test_speed_asks_both_sides_the_same(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = script("harness_speed")
    tiny = tiny_task_model("llama", [speed.TASK], max_position_embeddings=2048)
    tiny.family.max_length = 2048
    monkeypatch.setitem(speed.SIDES, "harness", one_by_one)
    arguments = speed.build_parser().parse_args(
        ["--source", str(scored_rows(tmp_path)), "--no-memory"]
    )
    arguments.rounds = 1
    for case, options in (("long endings", 4), ("five-shot letters", 4)):
        questions = speed.CASES[case](arguments)
        assert {len(given) for _, given in questions} == {options}
        figures = speed.compare(case, tiny.eval(), arguments)
        assert figures[0].value > 0
        assert all(figure.holds for figure in figures[1:])
    context, letters = questions[0]
    assert letters == ["A", "B", "C", "D"]
    assert context.count("Answer: B") == speed.SHOTS
    assert context.endswith("Answer:")


def test_a_suite_is_scored_task_by_task(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = script("harness_speed")
    gap = {"sentence": "the dog and _ run", "option1": "a fox", "option2": "a dog", "answer": "2"}
    rows = [gap | {"sentence": f"{start} and _ run"} for start in ("the dog", "the fox", "a dog")]
    for split in ("train", "validation"):
        path = tmp_path / "commonsense" / "winogrande" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    suite = load_suite("commonsense")
    only = suite.model_copy(update={"tasks": (suite.task("winogrande"),)})
    monkeypatch.setattr(speed, "load_suite", lambda name: only)
    monkeypatch.setitem(speed.SIDES, "harness", one_by_one)
    tiny = tiny_task_model("llama", [speed.TASK]).eval()
    options = ["--source", str(tmp_path), "--model", "tiny", "--rows", "2", "--rounds", "1"]
    arguments = speed.build_parser().parse_args(options)

    questions, answers = speed.ask_suite(arguments)["winogrande"]
    assert questions[0] == ("the dog and", ["a fox run", "a dog run"])
    assert answers == [1, 1]
    figures = {figure.name: figure for figure in speed.compare_suite(tiny, arguments)}
    scores = one_by_one(tiny, questions, 8)
    right = sum(second > first for first, second in scores) / 2
    assert figures["winogrande: accuracy"].value == right
    assert figures["winogrande: accuracy"].unit == "of 2 rows"
    assert figures["winogrande: majority"].value == 1.0
    assert figures["winogrande: other predictions"].holds
    assert figures["winogrande: largest difference of a log-likelihood"].holds


@torch.no_grad()
def one_by_one(base: Any, questions: Any, _: int) -> list[list[float]]:
    """The harness's part where it isn't installed: an option at a time."""
    tokenizer, scores = base.family.tokenizer, []
    for context, options in questions:
        front = tokenizer(context).input_ids
        said = []
        for option in options:
            ids = torch.tensor(
                [front + tokenizer(f" {option}", add_special_tokens=False).input_ids]
            )
            found = base.backbone(input_ids=ids).logits.log_softmax(-1)[0, len(front) - 1 : -1]
            said.append(float(found.gather(1, ids[0, len(front) :, None]).sum()))
        scores.append(said)
    return scores
