"""AdaLoRA: ranks really are pruned, to the budget, the same whether or not a run was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError

from peml.errors import TrainingError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.lora.adalora import AdaLora, AdaLoraPart
from peml.methods.lora.settings import AdaLoraSettings
from peml.methods.shape import read_shape
from peml.testing import MethodSuite
from peml.testing.models import tiny_model
from peml.training.optimizer import load_optimizer_state, optimizer_state
from tests.methods.test_lora import batch, plain, scores

INIT, TARGET, STEPS = 4, 2, 12
SMALL: dict[str, Any] = {"init_r": INIT, "target_r": TARGET, "tinit": 0.25, "tfinal": 0.25}


class TestAdaLora(MethodSuite):
    settings = AdaLoraSettings.model_validate({"init_r": 4, "target_r": 2})
    families: ClassVar = ("bert", "llama", "t5", "gpt2")
    learns_first = ("*.lora_E.*", "*.lora_A.*", "*.lora_B.*")  # A and B by their orthogonality


class Training:
    """What the training loop does, as far as AdaLoRA is concerned."""

    def __init__(
        self, name: str = "bert", *, seed: int = 0, total: int = STEPS, **lora: Any
    ) -> None:
        settings = AdaLoraSettings.model_validate(SMALL | lora)
        context = AttachContext(seed=seed, calibrate=lambda: None, total_steps=total)
        self.model: AttachedModel = AdaLora(settings).attach(plain(name), context)
        part = self.model.parts["lora"]
        assert isinstance(part, AdaLoraPart)
        self.part = part
        self.batch = batch(self.model)
        parameters = [p for group in self.model.groups() for p in group.parameters]
        self.optimizer = torch.optim.AdamW(parameters, lr=0.02)

    def run(self, first: int, last: int, *, allocate: bool = True) -> list[int]:
        """Steps ``first`` to ``last - 1``; ranks left in all layers after each."""
        self.model.train()
        left = []
        for step in range(first, last):
            torch.manual_seed(step)  # the tiny models have dropout
            self.model(self.batch).loss.backward()
            self.optimizer.step()
            if allocate:
                self.model.after_step(step)
            self.optimizer.zero_grad(set_to_none=True)
            left.append(sum(self.part.ranks().values()))
        self.model.eval()
        return left

    def stop(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Copies of what a checkpoint holds."""
        states = self.model.trainable_state(), optimizer_state(self.optimizer, self.model)
        return {n: v.clone() for n, v in states[0].items()}, {
            n: v.clone() for n, v in states[1].items()
        }

    def resume(self, states: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]) -> None:
        self.model.load_trainable_state(states[0])
        load_optimizer_state(self.optimizer, self.model, states[1])


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_ranks_are_pruned_to_the_budget_along_the_schedule(name: str) -> None:
    training = Training(name)
    layers = len(training.part.ranks())
    left = training.run(0, STEPS)
    # Three steps without pruning, and the one at which the cubic starts; three after the last.
    assert left[:4] == [INIT * layers] * 4
    pruning = left[3:10]
    assert pruning == sorted(pruning, reverse=True)
    assert len(set(pruning)) > 4
    assert left[9:] == [TARGET * layers] * 3
    assert len(set(training.part.ranks().values())) > 1, "every layer was given the same rank"


def test_nothing_is_pruned_where_the_part_is_not_told_of_steps() -> None:
    training = Training()
    left = training.run(0, STEPS, allocate=False)
    assert set(left) == {INIT * len(training.part.ranks())}


def test_a_pruned_rank_keeps_out_to_the_end() -> None:
    training = Training()
    training.run(0, 10)
    pruned = {n: p == 0 for n, p in training.model.named_parameters() if "lora_E" in n}
    training.run(10, STEPS)
    parameters = dict(training.model.named_parameters())
    assert all(torch.equal(parameters[name] == 0, zero) for name, zero in pruned.items())
    kept = next(name for name, zero in pruned.items() if not zero.all())
    assert parameters[kept].any()


@pytest.mark.parametrize("stop", [2, 6, 9, 10, 11])
def test_a_stopped_run_goes_on_to_the_same_bits(stop: int) -> None:
    whole = Training(delta_t=2, dropout=0.0)
    whole.run(0, stop)
    saved = whole.stop()
    whole.run(stop, STEPS)

    resumed = Training(delta_t=2, dropout=0.0, seed=5)
    assert set(resumed.stop()[0]) == set(saved[0]), "the state's names are not there from the start"
    resumed.resume(saved)
    resumed.run(stop, STEPS)
    expected, found = whole.model.trainable_state(), resumed.model.trainable_state()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert resumed.part.ranks() == whole.part.ranks()
    assert sum(resumed.part.ranks().values()) == TARGET * len(whole.part.ranks())


def test_the_state_decides_what_is_pruned() -> None:
    """Without the sensitivities of before, a resumed run would prune other ranks."""
    whole = Training()
    whole.run(0, 6)
    weights, moments = whole.stop()
    whole.run(6, STEPS)
    forgetful = Training()
    forgotten = {n: torch.zeros_like(v) if ".sensitivity." in n else v for n, v in weights.items()}
    forgetful.resume((forgotten, moments))
    forgetful.run(6, STEPS)
    assert forgetful.part.ranks() != whole.part.ranks()


def test_a_layer_no_row_has_reached_counts_as_insensitive() -> None:
    training = Training()
    unreached = next(n for n in training.part.ranks() if n.endswith("query"))
    training.model(training.batch).loss.backward()
    for name, parameter in training.model.named_parameters():
        if unreached in name:
            parameter.grad = None
    training.optimizer.step()
    training.model.after_step(0)
    state = training.part.state()
    assert not any(v.any() for n, v in state.items() if "sensitivity" in n and unreached in n)
    assert any(v.any() for n, v in state.items() if "sensitivity" in n)


def test_the_orthogonality_loss_is_what_peft_adds() -> None:
    training = Training("llama", orth_reg_weight=0.3)
    training.run(0, 3)
    ids = torch.arange(8, 20)[None]
    tuner = training.part._tuner
    without = tuner.model(input_ids=ids, labels=ids).loss
    added = tuner(input_ids=ids, labels=ids).loss - without
    own = training.part.auxiliary_loss()
    assert own is not None
    torch.testing.assert_close(own, added, rtol=1e-4, atol=1e-5)
    training.model.train()
    with_loss = training.model(training.batch).loss
    torch.testing.assert_close(with_loss - training.model.eval()(training.batch).loss, own)


@pytest.mark.parametrize("steps", [0, 3, 8, STEPS])
def test_saved_it_loads_with_peft_alone(steps: int, tmp_path: Path) -> None:
    """Fresh, unpruned, between two prunings with some ranks come back, and at the end."""
    training = Training("llama", delta_t=3)
    training.run(0, steps)
    training.model.save_parts(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path / "lora"))
    ids = torch.arange(8, 20)[None]
    with torch.no_grad():
        expected = training.model.base.backbone(input_ids=ids).logits
        found = loaded(input_ids=ids).logits
        unchanged = tiny_model("llama")(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(unchanged, expected) == (steps == 0)
    pattern = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["rank_pattern"]
    assert sum(map(sum, pattern.values())) == sum(training.part.ranks().values())
    left = training.run(steps, STEPS) if steps < STEPS else []  # saving has not disturbed it
    assert left[-1:] in ([], [TARGET * len(training.part.ranks())])


def test_pruned_and_merged_it_gives_the_same_answers() -> None:
    training = Training("llama")
    training.run(0, STEPS)
    before = scores(training.model)
    assert not torch.allclose(before, scores(plain("llama")))
    training.model.merge()
    torch.testing.assert_close(scores(training.model), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("total", "tinit"), [(1, 0.0), (2, 0.5)])
def test_a_run_too_short_to_prune_in_is_refused(total: int, tinit: float) -> None:
    lora = SMALL | {"tinit": tinit}
    method = AdaLora(AdaLoraSettings.model_validate(lora))
    context = AttachContext(seed=0, calibrate=lambda: None, total_steps=total)
    with pytest.raises(TrainingError, match=f"in a run of {total} optimiser step"):
        method.attach(plain("bert"), context)


@pytest.mark.parametrize("total", range(2, 9))
def test_the_shortest_runs_are_pruned_too(total: int) -> None:
    training = Training(total=total, tinit=0.3, tfinal=0.0)
    left = training.run(0, total)
    assert left[-1] == TARGET * len(training.part.ranks())


@pytest.mark.parametrize(
    ("lora", "problem"),
    [
        ({"init_r": 4, "target_r": 4}, "leaves nothing to prune"),
        ({"tinit": 0.5, "tfinal": 0.5}, "leave no steps to prune in"),
        ({"init_r": 1}, "init_r"),
        ({"beta1": 1.0}, "beta1"),
    ],
)
def test_settings_that_prune_nothing_are_refused(lora: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        AdaLoraSettings.model_validate(lora)


def test_resizing_keeps_the_shares() -> None:
    shape = read_shape(plain("bert"))
    method = AdaLora(AdaLoraSettings())
    for budget in (1, 20_000, 100_000):
        settings = method.resized(shape, budget)
        assert isinstance(settings, AdaLoraSettings)
        lora = settings
        assert 1 <= lora.target_r < lora.init_r
        assert lora.alpha / lora.init_r == pytest.approx(32 / 12)
        assert abs(lora.target_r / lora.init_r - 8 / 12) <= 0.5 / lora.init_r
        per_rank = lora.count_parameters(shape) / lora.init_r
        assert abs(lora.count_parameters(shape) - budget) <= max(
            per_rank / 2, 2 * per_rank - budget
        )
