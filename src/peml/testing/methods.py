"""The conformance suite of methods."""

import dataclasses
import math
from collections.abc import Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import torch

from peml.errors import TaskError
from peml.export import load_model, save_model
from peml.injection.attention import register_wrapper
from peml.injection.probe import switch_implementation
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings
from peml.methods.registry import build_method
from peml.methods.routed.delta import AdaptedLinear
from peml.methods.shape import read_shape
from peml.models import TaskModel
from peml.models.loading import enable_checkpointing
from peml.testing.answers import (
    decode_slowly,
    frozen_of,
    merged_for,
    own_parameters,
    pass_of,
    reached,
    rows_of,
    scores_of,
    scores_of_rows,
)
from peml.testing.tasks import TINY_ROWS, TINY_TASKS, batch_of, tasks_with_contexts, tiny_task_model

# Without dropout, whose noise would hide differences.
_CONFIG: dict[str, dict[str, Any]] = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "electra": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "t5": {"num_layers": 1, "num_decoder_layers": 1},  # else it has twice the others' layers
}
_STEPS = 20


class MethodSuite:
    """Checks a method. Subclass it in a test file::

        class TestMine(MethodSuite):
            settings = MineSettings(r=2)

    The method is built from its settings, so it has to be registered. Every check runs on each
    tiny model, with three tasks in a batch. Statements on parameters don't include encoders' heads,
    which always train.

    Attributes:
        settings: The method's config section, of a size for tiny models, without dropout.
        families: Tiny models in the tests, at least one of each kind.
        identity_at_start: Whether a fresh method leaves the scores exactly unchanged.
        random_start: Whether an initial weight depends on the seed.
        learns_first: Name patterns of the parameters with a gradient in the first step; all others
            have none. None: not checked.
        learns_later: Name patterns of those with a gradient after a first step.
        tolerance: Largest error of scores after merging, saving or switching off.
    """

    settings: ClassVar[MethodSettings]
    families: ClassVar[Sequence[str]] = ("bert", "llama", "t5")
    identity_at_start: ClassVar[bool] = True
    random_start: ClassVar[bool] = True
    learns_first: ClassVar[Sequence[str] | None] = None
    learns_later: ClassVar[Sequence[str]] = ("*",)
    tolerance: ClassVar[float] = 1e-4

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Runs each check on every model of `families`."""
        if "family" in metafunc.fixturenames:
            metafunc.parametrize("family", self.families)

    # Used by the checks; a subclass may override them.

    def method(self) -> Method:
        """The method under test."""
        return build_method(self.settings)

    def scale(self, settings: Any) -> float:
        """The number that resizing must not change: alpha / r, if the settings have both."""
        low_rank = getattr(settings, "lora", settings)
        if not (hasattr(low_rank, "r") and hasattr(low_rank, "alpha")):
            return 0.0
        return float(low_rank.alpha / low_rank.r)

    def plain(self, family: str) -> TaskModel:
        """The frozen model without the method."""
        tasks = TINY_TASKS if self.method().context is None else tasks_with_contexts()
        return tiny_task_model(family, tasks, **_CONFIG.get(family, {}))

    def fresh(self, family: str, *, seed: int = 0) -> AttachedModel:
        """The model with the method before the first step; a search ends at once."""
        model = self.plain(family)

        def calibrate() -> None:
            model(batch_of(model))

        context = AttachContext(seed=seed, calibrate=calibrate, total_steps=_STEPS)
        attached = self.method().attach(model, context).eval()
        if attached.search is not None:
            attached.search.begin(1)
            attached.search.discretise(1)
        return attached

    def trained(self, family: str, *, seed: int = 0) -> AttachedModel:
        """The model with random changes of all trainable weights, as after training."""
        model = self.fresh(family, seed=seed)
        noise = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.1)
        return model

    def updated(self, family: str) -> AttachedModel:
        """The model after one optimiser step."""
        model = self.fresh(family).train()
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        model(batch_of(model.base)).loss.backward()
        optimizer.step()
        model.after_step(0)
        return model

    # At the start

    def test_a_fresh_method_changes_nothing(self, family: str) -> None:
        """Scores equal those of the plain model, if `identity_at_start`."""
        if self.identity_at_start:
            assert torch.equal(
                scores_of_rows(self.fresh(family)), scores_of_rows(self.plain(family))
            )

    def test_the_seed_decides_and_the_global_generator_is_left_alone(self, family: str) -> None:
        """The same seed gives the same weights, another seed others."""
        before = torch.get_rng_state()
        states = [self.fresh(family, seed=seed).trainable_state() for seed in (0, 0, 1)]
        assert torch.equal(torch.get_rng_state(), before), "attach() moved the global generator"
        first, again, other = states
        assert all(torch.equal(first[name], again[name]) for name in first)
        differs = any(not torch.equal(first[name], other[name]) for name in first)
        assert differs == self.random_start

    def test_parameters_are_as_many_as_the_closed_form_says(self, family: str) -> None:
        """Numbers by group, without heads, equal the closed form."""
        counted = self.fresh(family).trainable_parameters()
        counted.pop("heads", None)
        plain = self.plain(family)
        said = self.method().count_parameters(read_shape(plain))
        assert {name: n for name, n in counted.items() if n} == {n: c for n, c in said.items() if c}

    def test_resizing_meets_a_budget(self, family: str) -> None:
        """The resized method is within 5 % of the budget, and the update's scale stays."""
        shape = read_shape(self.plain(family))
        budget = 30 * sum(self.method().count_parameters(shape).values())
        settings = self.method().resized(shape, budget)
        if settings is None:
            return
        reached = sum(build_method(settings).count_parameters(shape).values())
        assert abs(reached - budget) <= 0.05 * budget, (reached, budget)
        assert math.isclose(self.scale(settings), self.scale(self.settings))

    # Gradients

    def test_the_first_steps_reach_what_they_should(self, family: str) -> None:
        """The right parameters have a gradient in the first step, and in the second."""
        model = self.fresh(family).train()
        model(batch_of(model.base)).loss.backward()
        names = {n for n, p in own_parameters(model)}
        if self.learns_first is not None:
            assert reached(model) == {n for n in names if _fits(n, self.learns_first)}
        model = self.updated(family)
        model.zero_grad()
        model(batch_of(model.base)).loss.backward()
        assert reached(model) == {n for n in names if _fits(n, self.learns_later)}

    def test_gradients_reach_exactly_what_is_declared(self, family: str) -> None:
        """Every parameter that requires a gradient is in one group and gets a gradient."""
        model = self.trained(family).train()
        model(batch_of(model.base)).loss.backward()
        declared = [id(p) for group in model.groups() for p in group.parameters]
        assert len(declared) == len(set(declared)), "a parameter stands in two groups"
        wanted = {name for name, p in model.named_parameters() if p.requires_grad}
        assert {n for n, p in model.named_parameters() if id(p) in set(declared)} == wanted
        reached = {name for name, p in model.named_parameters() if p.grad is not None}
        assert reached == wanted
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_nothing_frozen_moves(self, family: str) -> None:
        """One step changes only trainable tensors and the declared state."""
        before = {name: value.clone() for name, value in frozen_of(self.fresh(family)).items()}
        after = frozen_of(self.updated(family))
        assert before.keys() == after.keys()
        moved = [name for name in before if not torch.equal(before[name], after[name])]
        assert not moved

    def test_checkpointing_changes_no_gradient(self, family: str) -> None:
        """Recomputed layers see the same tasks, the same prefix and the same noise."""
        results = []
        for checkpointing in (False, True):
            model = self.trained(family).train()
            if checkpointing:
                enable_checkpointing(model.base.backbone)
            results.append(pass_of(model, batch_of(model.base)))
        torch.testing.assert_close(*results)

    def test_packed_rows_equal_padded_ones(self, family: str) -> None:
        """A batch's rows as one sequence have the same losses and gradients, recomputed or not."""
        results = []
        for packs in (False, True):
            model = self.trained(family).train()
            if not model.base.family.packs:
                return
            if packs:
                switch_implementation(model.base.backbone, register_wrapper("sdpa"))
                enable_checkpointing(model.base.backbone)
            results.append(pass_of(model, batch_of(model.base, packs=packs)))
        torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)

    def test_half_precision_gives_finite_gradients(self, family: str) -> None:
        """Gradients are finite under bfloat16 autocast, with float32 trainable parameters."""
        model = self.trained(family).train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(batch_of(model.base)).loss
        loss.backward()
        assert loss.isfinite()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.dtype == torch.float32, name
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name

    # Tasks

    def test_a_mixed_batch_equals_a_batch_a_task(self, family: str) -> None:
        """Rows of other tasks in the batch change nothing."""
        model = self.trained(family)
        mixed = scores_of_rows(model)
        tasks = torch.tensor([task for task, _ in TINY_ROWS])
        for task in range(len(TINY_TASKS)):
            torch.testing.assert_close(
                scores_of_rows(model, rows_of(task)), mixed[tasks == task], atol=1e-4, rtol=1e-4
            )

    def test_the_task_id_matters_exactly_where_it_is_needed(self, family: str) -> None:
        """Wrong ids change the scores if and only if `needs_task_id` is true."""
        model = self.trained(family)
        batch = batch_of(model.base)
        other = dataclasses.replace(batch, task_ids=(batch.task_ids + 1) % len(TINY_TASKS))
        right, wrong = scores_of(model, batch), scores_of(model, other)
        assert (not torch.equal(right, wrong)) == self.method().needs_task_id

    def test_an_unknown_task_id_is_refused(self, family: str) -> None:
        """An unknown id raises an error instead of an average or default."""
        model = self.fresh(family)
        batch = batch_of(model.base)
        for wrong in (-1, len(TINY_TASKS)):
            unknown = dataclasses.replace(batch, task_ids=batch.task_ids.clone().fill_(wrong))
            message = ""
            try:
                model(unknown)
            except TaskError as error:
                message = str(error)
            assert str(wrong) in message

    def test_generation_equals_teacher_forcing(self, family: str) -> None:
        """Greedy decoding of prompts of different tasks, with cache and padding."""
        model = self.trained(family)
        if not any(kind.generates for kind in model.base.family.task_types):
            return
        left = not model.base.backbone.config.is_encoder_decoder  # as an evaluation pads
        batch = batch_of(model.base, purpose="generate", left=left)
        with torch.no_grad():
            model.prepare()
            said = model.base.generate(batch, max_new_tokens=4)
            slow = [decode_slowly(model, row) for row in TINY_ROWS]
        assert said == slow

    # State

    def test_trainable_state_comes_back(self, family: str) -> None:
        """Loaded into a fresh model, it gives the same scores."""
        model = self.trained(family)
        state = {name: value.clone() for name, value in model.trainable_state().items()}
        other = self.fresh(family, seed=1)
        other.load_trainable_state(state)
        assert torch.equal(scores_of_rows(other), scores_of_rows(model))

    def test_switched_off_it_is_the_plain_model(self, family: str) -> None:
        """All ablations together give the plain model's scores; afterwards the method is on again.

        A method without parts, such as full fine-tuning, can't be switched off.
        """
        model = self.trained(family)
        if not model.ablations():
            return
        plain = self.plain(family)
        if plain.heads is not None and model.base.heads is not None:
            plain.heads.load_state_dict(model.base.heads.state_dict())
        on = scores_of_rows(model)
        with ExitStack() as stack:
            for name, off in model.ablations().items():
                assert name.endswith("_off")
                stack.enter_context(off())
            torch.testing.assert_close(
                scores_of_rows(model),
                scores_of_rows(plain),
                atol=self.tolerance,
                rtol=self.tolerance,
            )
        assert torch.equal(scores_of_rows(model), on)
        assert not torch.allclose(on, scores_of_rows(plain)), "the trained method has no effect"

    def test_merged_equals_unmerged(self, family: str) -> None:
        """Merging keeps the scores, or removes a method that can't be merged once."""
        model = self.trained(family)
        before = scores_of_rows(model)
        model.merge()
        if self.method().merging.how == "once":
            torch.testing.assert_close(
                scores_of_rows(model), before, atol=self.tolerance, rtol=self.tolerance
            )
        left = {name for name, _ in model.base.backbone.named_parameters()}
        assert left == {name for name, _ in self.plain(family).backbone.named_parameters()}

    def test_each_tasks_factors_are_its_update(self, family: str) -> None:
        """For methods with weights per task: merged for one task, they give its scores."""
        if self.method().merging.how != "per task":
            return
        model = self.trained(family)
        routed = [m for m in model.base.backbone.modules() if isinstance(m, AdaptedLinear)]
        assert routed, "a method that merges per task has AdaptedLinear layers"
        for task in range(len(TINY_TASKS)):
            one = self.trained(family)
            for name, layer in list(one.base.backbone.named_modules()):
                if isinstance(layer, AdaptedLinear):
                    one.base.backbone.set_submodule(name, merged_for(layer, task))
            rows = rows_of(task)
            torch.testing.assert_close(
                scores_of_rows(one, rows),
                scores_of_rows(model, rows),
                atol=self.tolerance,
                rtol=self.tolerance,
            )

    def test_saved_and_loaded_it_says_the_same(self, family: str, tmp_path: Path) -> None:
        """The model has the same scores after saving in the native format, merged or not."""
        model = self.trained(family)
        before = scores_of_rows(model)
        save_model(model, tmp_path / "model", self.settings)
        loaded = load_model(tmp_path / "model")
        torch.testing.assert_close(
            scores_of(loaded, batch_of(loaded)), before, atol=self.tolerance, rtol=self.tolerance
        )


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
