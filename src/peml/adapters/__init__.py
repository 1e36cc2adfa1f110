"""The low-rank layers of the multi-task methods: pure torch, one delta a method."""

from peml.adapters.c_poly import CPolyDelta
from peml.adapters.delta import AdaptedLinear, Delta
from peml.adapters.moe_lora import TaskGate, TaskMoeDelta, TokenMoeDelta
from peml.adapters.mtl_lora import MtlLoraDelta
from peml.adapters.multilora import MultiLoraDelta
from peml.adapters.routing import Side, TaskRouting

__all__ = [
    "AdaptedLinear",
    "CPolyDelta",
    "Delta",
    "MtlLoraDelta",
    "MultiLoraDelta",
    "Side",
    "TaskGate",
    "TaskMoeDelta",
    "TaskRouting",
    "TokenMoeDelta",
]
