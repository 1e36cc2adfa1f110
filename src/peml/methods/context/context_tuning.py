"""Contexts that are trained, in front of a frozen model (Context Tuning, arXiv 2507.04221)."""

from contextlib import nullcontext
from typing import ClassVar

from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, MethodSettings
from peml.methods.context.held import ContextMethod
from peml.methods.context.settings import ContextTuningSettings, CorrectionSettings
from peml.methods.shape import ModelShape, nearest_size
from peml.models import TaskModel


class ContextTuning(ContextMethod):
    """Each task's context starts at the keys and values of its solved rows, and is trained."""

    settings_type: ClassVar[type[MethodSettings]] = ContextTuningSettings
    settings: ContextTuningSettings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        return AttachedModel(model, self._parts(self._hold(model), model, context, nullcontext))

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        return {"correction": self._count(self.settings.correction, shape)}

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings | None:
        """Another rank; None for a free correction, whose size is that of the contexts."""
        if self.settings.correction.kind == "free":
            return None

        def at(rank: int) -> CorrectionSettings:
            return self.settings.correction.model_copy(update={"rank": rank})

        rank = nearest_size(lambda rank: self._count(at(rank), shape), budget)
        return self.settings.model_copy(update={"correction": at(rank)})
