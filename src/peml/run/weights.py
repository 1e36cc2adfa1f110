"""The trained model on other frozen weights at a run's end, if those of training were shared by its
processes or quantised; and what sharing them excludes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from peml.data import TaskBatch
from peml.errors import ConfigError
from peml.export.agreement import answers, check_agreement, largest_difference
from peml.methods.attached import AttachedModel
from peml.models import Backbone, load_backbone
from peml.models.quantization import dequantize, free_quantized
from peml.models.sharding import is_sharded
from peml.run.preparation import Prepared
from peml.run.training import TrainingSession, attach


def check_sharding(prepared: Prepared) -> None:
    """Refuses shared weights if one process would need them without the others.

    Raises:
        ConfigError: Some settings can't be combined with shared weights.
    """
    config, method, family = prepared.config, prepared.method, prepared.family
    if config.model.sharding == "none":
        return
    reasons = {
        f"the family {family.name} calls parts of its models": not family.shards,
        f"the method {config.method.name} trains the model's own weights": method.trains_backbone,
        f"the method {config.method.name} computes contexts": method.context is not None,
        f"the method {config.method.name} reads the model's embeddings": method.prompt_length > 0,
        f"training.balancing.strategy {config.training.balancing.strategy} makes a backward pass "
        "for each task of a batch": not prepared.balancing.passes_backward_once,
        "training.compile is true": config.training.compile,
        "the frozen weights are quantised": prepared.precision.quantization is not None,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ConfigError(
            f"model.sharding is {config.model.sharding}, which can't be used here: "
            f"{'; '.join(found)}",
            allowed="encoders and decoder-only models, methods that use the frozen weights in "
            "forward passes only, other balancing strategies, no training.compile, plain weights",
            action="change these settings, or leave out model.sharding; nothing was changed",
        )


def sharded_answers(model: AttachedModel, probes: Sequence[TaskBatch]) -> list[Tensor]:
    """Scores of a few rows by all processes together; empty if each has the whole model."""
    return answers(model, probes) if is_sharded(model.base.backbone) else []


def whole_model(
    session: TrainingSession, probes: Sequence[TaskBatch], before: Sequence[Tensor]
) -> AttachedModel:
    """The trained model for one process, on the CPU, its frozen weights read from their files.

    The shards are not gathered, since they equal the files. `before` are the probes'
    `sharded_answers`.

    Raises:
        RunError: The whole model gives other scores.
    """
    prepared = session.prepared
    settings = prepared.config.model.model_copy(update={"sharding": "none"})
    model = on_weights(session, load_backbone(settings, prepared.family))
    check_agreement(before, answers(model, probes), probes, model.base)
    return model


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
