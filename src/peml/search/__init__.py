"""Relaxations, the timetable, the budget and the controller of the architecture search."""

from peml.search.budget import Budget
from peml.search.choosing import Choices
from peml.search.controller import Measure, SearchController
from peml.search.relaxation import (
    RELAXATIONS,
    Relaxation,
    RelaxationName,
    gumbel,
    relax,
    sampled_path,
    softmax,
)
from peml.search.schedule import TemperatureSchedule
from peml.search.settings import SearchSettings
from peml.search.timetable import Timetable

__all__ = [
    "RELAXATIONS",
    "Budget",
    "Choices",
    "Measure",
    "Relaxation",
    "RelaxationName",
    "SearchController",
    "SearchSettings",
    "TemperatureSchedule",
    "Timetable",
    "gumbel",
    "relax",
    "sampled_path",
    "softmax",
]
