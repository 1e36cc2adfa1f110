"""Moves a run's trained weights onto other frozen weights."""

from collections.abc import Sequence

import torch

from peml.data import TaskBatch
from peml.export.agreement import answers, largest_difference
from peml.methods.attached import AttachedModel
from peml.models import Backbone, dequantize, free_quantized, load_backbone
from peml.run.training import TrainingSession, attach


def on_weights(session: TrainingSession, backbone: Backbone) -> AttachedModel:
    """The trained model on another backbone, which is changed in place; on the CPU."""
    model = attach(session.prepared, torch.device("cpu"), session.genotype, backbone)
    model.added["balancing"] = session.balancing.to("cpu")
    model.load_trainable_state(session.model.trainable_state())
    return model


def dequantized(
    session: TrainingSession, probes: Sequence[TaskBatch]
) -> tuple[AttachedModel, float]:
    """The trained model on plain float32 weights, on the CPU; the session's model is freed.

    Returns:
        The model, and the largest difference of its scores of the probes from the quantised one's,
        as a share of 1 + the score.
    """
    prepared, device = session.prepared, session.model.base.device
    before = answers(session.model, probes)
    free_quantized(session.model)
    loaded = load_backbone(prepared.config.model, prepared.family, device=device)
    dequantize(loaded.model)
    settings = loaded.settings.model_copy(update={"quantization": None, "dtype": "float32"})
    plain = on_weights(session, Backbone(loaded.model, loaded.family, settings))
    return plain, largest_difference(before, answers(plain, probes))
