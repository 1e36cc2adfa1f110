"""MiSS: one small matrix for all shards of a layer's inputs (Kang and Yin, 2409.15371), by PEFT."""

from typing import Any, ClassVar

from peft import MissConfig
from peft.tuners.miss import MissModel

from peml.methods.base import AttachContext, MethodSettings
from peml.methods.lora.part import PeftMethod, PeftPart
from peml.methods.lora.settings import MissSettings


class Miss(PeftMethod):
    """MiSS on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = MissSettings

    def build_part(self, backbone: Any, context: AttachContext) -> PeftPart:
        config = MissConfig(r=self.settings.r, miss_dropout=self.settings.dropout)
        return PeftPart(backbone, MissModel, config, self.settings, context.seed)
