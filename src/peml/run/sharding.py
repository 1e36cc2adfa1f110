"""Runs whose processes share the frozen weights: their limits, and the whole model at the end."""

from collections.abc import Sequence

from torch import Tensor

from peml.data import TaskBatch
from peml.errors import ConfigError
from peml.export.agreement import answers, check_agreement
from peml.methods.attached import AttachedModel
from peml.models import load_backbone
from peml.models.sharding import is_sharded
from peml.run.preparation import Prepared
from peml.run.training import TrainingSession
from peml.run.weights import on_weights


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
