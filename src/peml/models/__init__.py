"""Base models: loading, families, heads, and the same forward pass for all of them."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.models.device import choose_device
    from peml.models.embedded import embedded_model
    from peml.models.families import Family, ModelOutput, Spelling, TextFamily
    from peml.models.loading import Backbone, load_backbone
    from peml.models.reading import check_task_types, load_family
    from peml.models.room import check_prompt, make_room, make_room_for_context, settle
    from peml.models.routing import TaskRouting
    from peml.models.settings import ModelSettings
    from peml.models.task_model import TaskModel
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "Backbone",
    "Family",
    "ModelOutput",
    "ModelSettings",
    "Spelling",
    "TaskModel",
    "TaskRouting",
    "TextFamily",
    "check_prompt",
    "check_task_types",
    "choose_device",
    "embedded_model",
    "load_backbone",
    "load_family",
    "make_room",
    "make_room_for_context",
    "settle",
]
