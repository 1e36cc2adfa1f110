"""The temperature of a search over its steps."""

from __future__ import annotations

from pydantic import Field, model_validator

from peml.settings import Settings


class TemperatureSchedule(Settings):
    """The temperature from the first to the last step in which the decisions move."""

    start: float = Field(1.0, description="Temperature until the end of the warm-up.", gt=0)
    end: float = Field(0.1, description="Temperature at the last step before the cool-down.", gt=0)

    @model_validator(mode="after")
    def _falling(self) -> TemperatureSchedule:
        if self.end > self.start:
            raise ValueError(f"end ({self.end}) must not be above start ({self.start})")
        return self

    def at(self, progress: float) -> float:
        """The temperature, which falls exponentially.

        Args:
            progress: From 0 (start) to 1 (end); clamped to this range.
        """
        progress = min(max(progress, 0.0), 1.0)
        return float(self.start * (self.end / self.start) ** progress)
