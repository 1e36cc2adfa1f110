"""What methods that hold contexts have in common: the contexts' part, and its correction."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from peml.injection.inject import attach_prefix
from peml.methods.base import AttachContext, Method, Part
from peml.methods.context.correction import Correction
from peml.methods.context.part import ContextPart
from peml.methods.context.settings import (
    ContextMethodSettings,
    ContextSettings,
    CorrectionSettings,
)
from peml.methods.shape import ModelShape
from peml.models import TaskModel


class ContextMethod(Method):
    """A method whose tasks have contexts, with or without a trained correction."""

    settings: ContextMethodSettings

    @property
    def context(self) -> ContextSettings:
        return self.settings.context

    @property
    def corrects_contexts(self) -> bool:
        return self.settings.correction.trains != "none"

    def _hold(self, model: TaskModel) -> ContextPart:
        return ContextPart(model, attach_prefix(model.backbone), self.context)

    def _parts(
        self,
        part: ContextPart,
        model: TaskModel,
        context: AttachContext,
        without_update: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, Part]:
        """The part of the contexts and, if one is trained, their correction."""
        part.use_rows(context.solved, without_update=without_update)
        if not self.corrects_contexts:
            return {part.name: part}
        lengths = self.context.held([len(tokens) for tokens in part.tokens])
        correction = Correction(
            part.injection.shape, lengths, self.settings.correction, context.seed
        )
        part.correct(correction.to(model.device))
        return {part.name: part, correction.name: correction}

    def _count(self, correction: CorrectionSettings, shape: ModelShape) -> int:
        if correction.trains == "none":
            return 0
        return correction.count(shape, self.context.held(shape.known_contexts()))
