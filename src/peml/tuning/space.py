"""The space of a study: paths into the run config, and the values to try there."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, Field, model_validator

from peml.config.loading import parse_config, set_value
from peml.config.model import RunConfig
from peml.errors import ConfigError, nearest
from peml.removed import why_removed
from peml.settings import Settings

if TYPE_CHECKING:
    import optuna

Number = int | float

_BETWEEN = 0.382  # of a range

_DECIDED = ("seed", "output", "export", "tuning_cost", "evaluation.split", "evaluation.ablations")


class Parameter(Settings):
    """The values to try at one path of the run config: a list, or a range.

    A range whose ends are written without a decimal point has whole numbers only.
    """

    choices: tuple[Any, ...] | None = None
    """The values to try; a plain list means the same."""
    low: Number | None = Field(None, description="Lowest value of a range.")
    high: Number | None = Field(None, description="Highest value of a range, included.")
    log: bool = Field(False, description="Draw evenly on a logarithmic scale.")
    step: Number | None = None
    """Distance between neighbouring values, starting at `low`."""
    methods: tuple[str, ...] | None = None
    """In a comparison: labels of the methods that have this path; default: all."""

    @model_validator(mode="before")
    @classmethod
    def _list_of_choices(cls, written: Any) -> Any:
        return {"choices": written} if isinstance(written, (list, tuple)) else written

    @model_validator(mode="after")
    def _sound(self) -> Self:
        problem = self._choice_problem() if self.choices is not None else self._range_problem()
        if problem:
            raise ValueError(problem)
        return self

    def _choice_problem(self) -> str:
        assert self.choices is not None
        if (self.low, self.high, self.step, self.log) != (None, None, None, False):
            return "give choices or a range (low and high), not both"
        encoded = list(map(_encode, self.choices))
        if len(encoded) < 2:
            return f"a list needs two or more values, not {list(self.choices)}"
        repeated = [value for value in encoded if encoded.count(value) > 1]
        return f"{repeated[0]!r} is given twice" if repeated else ""

    def _range_problem(self) -> str:
        low, high = self.low, self.high
        if low is None or high is None:
            return "give a list of values, or low and high"
        if not all(math.isfinite(end) for end in (low, high)):
            return f"low and high have to be numbers, not {low} and {high}"
        if low == high:
            return f"the range is empty: low and high are both {low}"
        if low > high:
            return f"the range is reversed: low ({low}) is above high ({high})"
        if self.log and low <= 0:
            return f"a log range has to lie above zero, and low is {low}"
        return self._step_problem(low, high)

    def _step_problem(self, low: Number, high: Number) -> str:
        if self.step is None:
            return ""
        if self.log:
            return "a log range can't have a step"
        if self.is_whole and not isinstance(self.step, int):
            return f"low and high are whole numbers, and step is {self.step}"
        steps = (high - low) / self.step if self.step > 0 else 0
        if steps < 1 or not math.isclose(steps, round(steps), abs_tol=1e-9):
            return f"step {self.step} does not lead from low ({low}) to high ({high})"
        return ""

    @property
    def is_whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> list[Any]:
        """All choices, or both ends of the range."""
        return list(self.choices) if self.choices is not None else [self.low, self.high]

    def tried(self) -> list[Any]:
        """The values that are checked before anything runs: the ends, and one between.

        A setting that takes whole numbers takes 1 and 8.0, but nothing that lies between.
        """
        if self.is_whole or self.low is None or self.high is None:
            return self.ends()
        return [*self.ends(), self.low + (self.step or _BETWEEN * (self.high - self.low))]

    def suggest(self, trial: optuna.Trial, path: str) -> Any:
        """Draws a value for the config; Optuna stores lists and mappings as JSON text."""
        if self.choices is not None:
            stored = trial.suggest_categorical(path, [_encode(value) for value in self.choices])
            return self.decode(stored)
        assert self.low is not None
        assert self.high is not None
        if self.is_whole:
            step = int(self.step or 1)
            return trial.suggest_int(path, int(self.low), int(self.high), log=self.log, step=step)
        low, high = float(self.low), float(self.high)
        return trial.suggest_float(path, low, high, log=self.log, step=self.step)

    def grid(self) -> list[Any] | None:
        """All values, as Optuna stores them; None for a range without steps."""
        if self.choices is not None:
            return [_encode(value) for value in self.choices]
        assert self.low is not None
        assert self.high is not None
        step = self.step or (1 if self.is_whole and not self.log else None)
        if step is None:
            return None
        count = round((self.high - self.low) / step) + 1
        # A rounded sum may be beyond the range: 0.1 + 2 * 0.1 is more than 0.3.
        return [min(self.low + number * step, self.high) for number in range(count)]

    def decode(self, stored: Any) -> Any:
        """The config's value for what Optuna stored."""
        if self.choices is None:
            return stored
        return next(value for value in self.choices if _encode(value) == stored)


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return json.dumps(value, sort_keys=True)


def first_values(space: Mapping[str, Parameter]) -> dict[str, Any]:
    """The first value of every parameter."""
    return {path: parameter.ends()[0] for path, parameter in space.items()}


def apply_values(base: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The run config with other values at some paths, which `check_space` has checked.

    Raises:
        ConfigError: The values don't make a valid config; all problems at once.
    """
    raw = base.model_dump(mode="json")
    for path, value in values.items():
        set_value(raw, ".".join(_own_path(base, path)), copy.deepcopy(value))
    listed = ", ".join(f"{path}={value}" for path, value in values.items())
    return parse_config(raw, f"the run config with {listed}")


def _own_path(base: RunConfig, path: str) -> list[str]:
    """The keys of a path, without a section in which the method's settings may be written as well.

    ``method.lora.r`` is ``method.r`` of a method that is LoRA alone, so that one path of a
    comparison's space serves it and the methods where LoRA is half of what trains.
    """
    section, *keys = path.split(".")
    nested = base.method.nested
    if section == "method" and nested and len(keys) > 1 and keys[0] == nested:
        keys = keys[1:]
    return [section, *keys]


def check_space(base: RunConfig, space: Mapping[str, Parameter]) -> None:
    """Tries all choices, and the ends of every range and a value between, on the run config.

    Raises:
        ConfigError: A path doesn't exist, overlaps another or is set by the tuner itself, or the
            run config refuses a value; lists all of them.
    """
    problems = [problem for path in space if (problem := _path_problem(base, path))]
    keys = {path: _own_path(base, path) for path in space}
    problems += [
        f"space.{path} lies within space.{other}: give one of them"
        for path in space
        for other in space
        if path != other and keys[path][: len(keys[other])] == keys[other]
    ]
    if not problems:
        first = first_values(space)
        tried = [first, *({**first, path: end} for path, p in space.items() for end in p.tried())]
        for values in tried:
            try:
                apply_values(base, values)
            except ConfigError as error:
                lines = error.problem.splitlines()
                problems += [line.strip() for line in lines[1:] or lines]
    if problems:
        raise ConfigError(
            "the space does not fit the run config:\n"
            + "\n".join(f"  {problem}" for problem in dict.fromkeys(problems)),
            allowed="paths into the run config, with values it accepts",
            action="correct them; `peml config schema` describes every field of a run",
        )


def _path_problem(base: RunConfig, path: str) -> str:
    if path in _DECIDED or path.split(".")[0] == "tasks":
        return f"space.{path}: all trials share it, so that they are measured alike"
    if _exists(base, _own_path(base, path)):
        return ""
    if reason := why_removed(path.split("."), None):
        return f"space.{path}: {reason}"
    known = [other for other in _paths(base) if other not in _DECIDED]
    return f"space.{path}: the run config has no such path.{nearest(path, known)}"


def _exists(node: Any, keys: Sequence[str]) -> bool:
    for part in keys:
        if isinstance(node, BaseModel):
            if part not in type(node).model_fields:
                return False
            node = getattr(node, part)
        elif isinstance(node, dict):  # its keys are free, such as those of learning rates
            node = node.get(part)
        else:
            return node is None  # a section that is left out: validation knows
    return True


def _paths(node: BaseModel, above: str = "") -> Iterator[str]:
    for name in type(node).model_fields:
        yield f"{above}{name}"
        value = getattr(node, name)
        if isinstance(value, BaseModel):
            yield from _paths(value, f"{above}{name}.")
        elif isinstance(value, dict):
            yield from (f"{above}{name}.{key}" for key in value)
