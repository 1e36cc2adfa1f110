"""The architecture search: relaxations, timetable, budget and controller."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.search.budget import Budget
    from peml.search.choosing import Choices
    from peml.search.controller import Measure, SearchController
    from peml.search.relaxation import RELAXATIONS, Relaxation, gumbel, relax, sampled_path, softmax
    from peml.search.schedule import TemperatureSchedule
    from peml.search.settings import RelaxationName, SearchSettings
    from peml.search.timetable import Timetable
else:
    __getattr__ = hand_on(__name__)

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
