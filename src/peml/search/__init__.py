"""The architecture search: relaxations, timetable, budget and controller."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.search.controller import SearchController
    from peml.search.relaxation import RELAXATIONS
    from peml.search.settings import SearchSettings
else:
    __getattr__ = hand_on(__name__)

__all__ = ["RELAXATIONS", "SearchController", "SearchSettings"]
