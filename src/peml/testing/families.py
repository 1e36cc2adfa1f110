"""The conformance suite of model families."""

from typing import ClassVar

import torch

from peml.models import TaskModel
from peml.models.families import FAMILIES, Purpose
from peml.tasks import TaskRenderer
from peml.testing.tasks import TINY_ROWS, TINY_TASKS, Row, batch_of, tiny_family, tiny_task_model


class FamilySuite:
    """Checks a model family. Subclass it in a test file::

        class TestMine(FamilySuite):
            name = "mine"
            model = "bert"

    `model` is a model of the family, a name in ``TINY_FAMILIES``.
    """

    name: ClassVar[str]
    model: ClassVar[str]

    def loaded(self) -> TaskModel:
        """The tiny model with the family, and all tiny tasks."""
        return tiny_task_model(self.model, family=self.name).eval()

    def test_can_do_the_tasks_of_the_suite(self) -> None:
        """The family supports classification of a text and of a pair, and regression."""
        missing = {task.type for task in TINY_TASKS} - FAMILIES.load(self.name, "").task_types
        assert not missing, f"the family can't do {', '.join(sorted(missing))}"

    def test_long_rows_are_cut_and_counted(self) -> None:
        """No sequence is longer than ``max_length``, and dropped tokens are counted."""
        family = tiny_family(self.model, max_length=16, family=self.name)
        long: dict[int, Row] = {0: {"text": "the film was good " * 20, "label": 1}}
        long[1] = {"first": "a man is moving " * 20, "second": "a person " * 20, "label": 2}
        for task_id, row in long.items():
            example = TaskRenderer(TINY_TASKS[task_id]).render(row, 0)
            purposes: tuple[Purpose, ...] = ("train", "score")
            for purpose in purposes:
                sequences = family.encode(TINY_TASKS[task_id], example, purpose)
                assert sequences, f"{purpose}: no sequence"
                assert all(len(sequence.input_ids) <= 16 for sequence in sequences)
                assert all(sequence.cut > 0 for sequence in sequences)

    def test_a_row_s_loss_does_not_depend_on_its_batch(self) -> None:
        """Padded rows of several tasks have the same losses as each row alone."""
        model = self.loaded()
        with torch.no_grad():
            together = model(batch_of(model))
            alone = [model(batch_of(model, [row])).losses for row in TINY_ROWS]
        assert together.losses.shape == (len(TINY_ROWS),)
        assert together.losses.isfinite().all()
        assert (together.losses > 0).any()
        torch.testing.assert_close(together.losses, torch.cat(alone), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.loss, together.losses.mean())

    def test_predictions_have_a_score_an_option(self) -> None:
        """Predictions are (examples, options), or (examples,) on the scale of a regression."""
        model = self.loaded()
        for task_id, task in enumerate(TINY_TASKS):
            rows = [row for row in TINY_ROWS if row[0] == task_id]
            batch = batch_of(model, rows, "score")
            with torch.no_grad():
                output = model(batch)
                found = model.family.predict(output, model.heads, batch, task, task_id)
            valued = task.type.has_scale
            wanted = (len(rows),) if valued else (len(rows), len(task.labels))
            assert found.shape == wanted, f"{task.name}: {tuple(found.shape)}, not {wanted}"
            assert found.isfinite().all()

    def test_gradients_reach_a_prompt_and_the_model(self) -> None:
        """Vectors in front of the input change the losses and get a gradient, as the model does."""
        model = self.loaded()
        batch = batch_of(model)
        width = model.backbone.get_input_embeddings().weight.shape[1]
        prompt = torch.randn(3, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
        model.backbone.requires_grad_(True)
        output = model.family.forward(model.backbone, model.heads, batch, prompt)
        output.loss.backward()
        assert prompt.grad is not None
        assert prompt.grad.abs().max() > 0
        weight = model.backbone.get_input_embeddings().weight
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0
        with torch.no_grad():
            assert not torch.equal(model(batch).losses, output.losses)

    def test_generates_if_it_says_so(self) -> None:
        """One text per row, if generation is among the task types."""
        model = self.loaded()
        if not any(kind.generates for kind in model.family.task_types):
            return
        left = not model.backbone.config.is_encoder_decoder
        batch = batch_of(model, TINY_ROWS, "generate", left=left)
        texts = model.family.generate(model.backbone, batch, max_new_tokens=3)
        assert len(texts) == len(TINY_ROWS)
        assert all(isinstance(text, str) for text in texts)
