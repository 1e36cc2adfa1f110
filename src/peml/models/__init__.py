"""Base models: loading, families, heads, and the same forward pass for all of them."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.models.compiling import CompiledBlocks, check_compiler
    from peml.models.device import check_dtype, choose_device
    from peml.models.embedded import embedded_model
    from peml.models.families import EncodedSequence, Family, ModelOutput, Spelling, TextFamily
    from peml.models.loading import (
        Backbone,
        count_layers,
        empty_backbone,
        identify_model,
        load_backbone,
    )
    from peml.models.open_batch import OpenBatch, can_join
    from peml.models.prepacked import prepack
    from peml.models.quantization import (
        check_quantization,
        count_parameters,
        dense_weight,
        dequantize,
        free_quantized,
        is_quantized,
    )
    from peml.models.reading import check_task_types, load_family, read_quantization, read_width
    from peml.models.room import (
        check_generation,
        check_prompt,
        make_room,
        make_room_for_context,
        settle,
    )
    from peml.models.rotary import rotary_limit
    from peml.models.routing import Side, TaskRouting
    from peml.models.settings import ModelSettings
    from peml.models.task_model import TaskModel
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "Backbone",
    "CompiledBlocks",
    "EncodedSequence",
    "Family",
    "ModelOutput",
    "ModelSettings",
    "OpenBatch",
    "Side",
    "Spelling",
    "TaskModel",
    "TaskRouting",
    "TextFamily",
    "can_join",
    "check_compiler",
    "check_dtype",
    "check_generation",
    "check_prompt",
    "check_quantization",
    "check_task_types",
    "choose_device",
    "count_layers",
    "count_parameters",
    "dense_weight",
    "dequantize",
    "embedded_model",
    "empty_backbone",
    "free_quantized",
    "identify_model",
    "is_quantized",
    "load_backbone",
    "load_family",
    "make_room",
    "make_room_for_context",
    "prepack",
    "read_quantization",
    "read_width",
    "rotary_limit",
    "settle",
]
