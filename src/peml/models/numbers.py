"""The error for NaN or infinite values in a model's output."""

from collections.abc import Sequence

from peml.errors import ModelError
from peml.models.settings import ModelSettings

_SHOWN = 5


def not_finite_advice(settings: ModelSettings) -> str:
    """Advice for NaN or infinity in the output of a model loaded with these settings."""
    if settings.dtype == "float16":
        return (
            "set model.dtype to bfloat16 or float32 in a new run: float16 overflows above 65504, "
            "as many models' activations do"
        )
    return (
        f"model.dtype is {settings.dtype}, whose range is wide enough: look for NaN in the base "
        "model's own weights, and for learning rates that were too high"
    )


def not_finite(what: str, task: str, rows: Sequence[int], settings: ModelSettings) -> ModelError:
    """The error for rows of a task with NaN or infinite ``scores`` or ``logits``."""
    named = ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
    count = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
    return ModelError(
        f"Task {task!r}: the model's {what} are NaN or infinite on {count} (from 0): {named}",
        allowed="finite numbers",
        action=not_finite_advice(settings),
    )
