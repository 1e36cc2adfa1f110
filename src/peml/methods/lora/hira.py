"""HiRA: the frozen weights times a low-rank matrix (Huang et al., ICLR 2025), through PEFT."""

from __future__ import annotations

from typing import Any, ClassVar

from peft import HiraConfig
from peft.tuners.hira import HiraModel

from peml.methods.base import AttachContext, MethodSettings
from peml.methods.lora.part import PeftMethod, PeftPart
from peml.methods.lora.settings import HiraSettings


class Hira(PeftMethod):
    """HiRA on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = HiraSettings

    def build_part(self, backbone: Any, context: AttachContext) -> PeftPart:
        """Puts the layers into the backbone."""
        config = HiraConfig(r=self.settings.r, hira_dropout=self.settings.dropout)
        return PeftPart(backbone, HiraModel, config, self.settings, context.seed)
