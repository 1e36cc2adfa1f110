"""HiRA: the frozen weights times a low-rank matrix (Huang et al., ICLR 2025), through PEFT."""

from typing import Any, ClassVar

import peft

from peml.errors import ModelError
from peml.methods.base import AttachContext, MethodSettings
from peml.methods.lora.part import PeftMethod, PeftPart
from peml.methods.lora.settings import HiraSettings


class Hira(PeftMethod):
    """HiRA on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = HiraSettings

    def build_part(self, backbone: Any, context: AttachContext) -> PeftPart:
        try:
            from peft import HiraConfig
            from peft.tuners.hira import HiraModel
        except ImportError as error:
            raise ModelError(
                f"PEFT {peft.__version__} has no HiRA",
                allowed="PEFT 0.20 or newer for the method hira",
                action="upgrade PEFT, or use another method",
            ) from error
        config = HiraConfig(r=self.settings.r, hira_dropout=self.settings.dropout)
        return PeftPart(backbone, HiraModel, config, self.settings, context.seed)
