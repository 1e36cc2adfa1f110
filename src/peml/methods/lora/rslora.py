"""Rank-stabilised LoRA (Kalajdzievski, 2312.03732), through PEFT."""

from __future__ import annotations

from typing import ClassVar

from peml.methods.base import MethodSettings
from peml.methods.lora.lora import Lora
from peml.methods.lora.settings import RsLoraSettings


class RsLora(Lora):
    """LoRA scaled by alpha / sqrt(r), on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = RsLoraSettings
