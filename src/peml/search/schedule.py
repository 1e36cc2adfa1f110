"""What changes in the course of a search: the temperature, and the weights of penalties."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from peml.settings import Settings

__all__ = ["PenaltySchedule", "TemperatureSchedule"]


class TemperatureSchedule(Settings):
    """The temperature from the first to the last step in which the decisions move."""

    start: float = Field(1.0, description="Temperature until the warm-up ends.", gt=0)
    end: float = Field(0.1, description="Temperature of the last step.", gt=0)
    shape: Literal["exponential", "linear"] = Field(
        "exponential", description="How it falls in between."
    )

    @model_validator(mode="after")
    def _falling(self) -> TemperatureSchedule:
        if self.end > self.start:
            raise ValueError(f"end ({self.end}) must not be above start ({self.start})")
        return self

    def at(self, progress: float) -> float:
        """The temperature.

        Args:
            progress: From 0 (start) to 1 (end); what lies outside is clamped.
        """
        progress = min(max(progress, 0.0), 1.0)
        if self.shape == "linear":
            return self.start + progress * (self.end - self.start)
        return float(self.start * (self.end / self.start) ** progress)


class PenaltySchedule(Settings):
    """The weight of a penalty on the logits, linear while the decisions move; 0 is off."""

    start: float = Field(0.0, description="Weight when the decisions begin to move.", ge=0)
    end: float = Field(0.0, description="Weight when they stop moving.", ge=0)

    @property
    def is_off(self) -> bool:
        """Whether it never weighs anything."""
        return self.start == self.end == 0

    def at(self, progress: float) -> float:
        """The weight at a progress from 0 to 1; what lies outside is clamped."""
        progress = min(max(progress, 0.0), 1.0)
        return self.start + progress * (self.end - self.start)
