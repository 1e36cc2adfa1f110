"""Relaxations, schedules and the controller of the architecture search."""

from peml.search.budget import Budget
from peml.search.controller import Choices, SearchController
from peml.search.relaxation import RelaxationName, gumbel, relax, softmax
from peml.search.schedule import TemperatureSchedule
from peml.search.settings import SearchSettings

__all__ = [
    "Budget",
    "Choices",
    "RelaxationName",
    "SearchController",
    "SearchSettings",
    "TemperatureSchedule",
    "gumbel",
    "relax",
    "softmax",
]
