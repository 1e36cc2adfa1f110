"""Gives every method the same number of trainable parameters."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from peml.comparison.settings import ComparisonConfig, Place
from peml.errors import ConfigError, PemlError
from peml.methods.base import Method, MethodSettings
from peml.methods.budget import TOLERANCE
from peml.methods.registry import MethodSection, build_method
from peml.methods.shape import ModelShape
from peml.records.plan import Identity
from peml.records.record import FileRecord, Record
from peml.records.run import MajorityOf
from peml.removed import without_removed
from peml.tasks import Averaging


class Sized(Record):
    """A method at its size for the comparison.

    `size` names the settings that determine the size; empty if there are none. `parameters` are
    trainable after any search, without heads. `off_budget` is the distance to the budget as a share
    of it; None if the method isn't matched.
    """

    method: Annotated[MethodSection, BeforeValidator(lambda section: without_removed(section))]
    size: str
    parameters: int
    off_budget: float | None


class ComparedTask(Record):
    """A task of a comparison: numbers of train and reported rows, the score of a constant guess."""

    name: str
    type: str
    version: int
    metric: str
    group: str | None = None
    average: Averaging = "tasks"
    max_new_tokens: int | None = None
    shots: int = 0
    train: int
    rows: int
    majority: float
    majority_of: MajorityOf = "train"


class Matching(FileRecord):
    """``matching.json``: the settings of every method by suite, after matching.

    `budget` is the number of trainable parameters without heads; None if sizes aren't matched.
    `steps` are those of a cell of the first seed, `cautions` are warnings about the data. `suites`
    has the methods by label, since a method's parameters may depend on the number of tasks;
    `config` is what the config said at the start, but for what may change.
    """

    FILE: ClassVar[str] = "matching.json"
    THING: ClassVar[str] = "comparison"

    format: int = 1
    budget: int | None
    tolerance: float = TOLERANCE
    steps: dict[str, int]
    tasks: dict[str, list[ComparedTask]]
    cautions: dict[str, list[str]] = {}
    identities: dict[str, Identity] = {}
    suites: dict[str, dict[str, Sized]]
    config: dict[str, Any] = {}

    @property
    def settings(self) -> dict[str, dict[str, MethodSettings]]:
        """Settings by suite and label."""
        return {
            suite: {label: sized.method for label, sized in methods.items()}
            for suite, methods in self.suites.items()
        }


def match_methods(
    config: ComparisonConfig, shapes: Mapping[Place, ModelShape]
) -> tuple[int | None, dict[str, dict[str, Sized]]]:
    """Finds the size of every method on every suite.

    `shapes` has the base model's shape, which depends on tasks and contexts.

    Returns:
        The budget, or None if sizes aren't matched; the methods by suite and label.

    Raises:
        ConfigError: A method can't come close enough to the budget, or two methods would be the
            same; the message lists all such problems.
    """
    budget = _budget(config, shapes)
    found, problems, off = _match(config, shapes, budget)
    if problems or off:
        matched = "" if budget is None else f" for a budget of {budget:,} trainable parameters"
        listed = "\n".join(f"  {problem}" for problem in (*problems, *off))
        action = "change or remove these methods"
        if off:
            fitting = _fitting_budget(config, shapes, budget or 0)
            hint = f", such as {fitting:,}, which suits all of them" if fitting else ""
            action = f"choose another budget{hint}; {action}, or set match: none"
        raise ConfigError(
            f"the methods can't be compared{matched}:\n{listed}",
            allowed=f"different methods, each within {TOLERANCE:.0%} of the budget",
            action=action,
        )
    return budget, found


def _match(
    config: ComparisonConfig, shapes: Mapping[Place, ModelShape], budget: int | None
) -> tuple[dict[str, dict[str, Sized]], list[str], list[str]]:
    """The methods by suite and label; all problems; labels of methods too far from the budget."""
    problems, off = [], []
    found: dict[str, dict[str, Sized]] = {suite: {} for suite in config.suites}
    for suite in config.suites:
        for label, settings in config.methods.items():
            try:
                wanted = None if label in config.unmatched else budget
                sized = _sized(build_method(settings), settings, shapes[suite, label], wanted)
            except PemlError as error:
                problems.append(f"{suite}, {label}: {error.problem}")
                continue
            found[suite][label] = sized
            if sized.off_budget is not None and abs(sized.off_budget) > TOLERANCE:
                size = f" with {sized.size}" if sized.size else ""
                off.append(
                    f"{suite}, {label}: the nearest it can reach is {sized.parameters:,}{size}, "
                    f"{sized.off_budget:+.1%} off"
                )
        problems += _twins(suite, found[suite])
    return found, problems, off


def _fitting_budget(
    config: ComparisonConfig, shapes: Mapping[Place, ModelShape], budget: int
) -> int | None:
    """The nearest budget, between half and double, that every method can reach."""
    percents = sorted(range(-70, 71), key=abs)
    tried = (int(float(f"{budget * 2 ** (percent / 70):.3g}")) for percent in percents)
    return next((other for other in tried if not _match(config, shapes, other)[2]), None)


def _budget(config: ComparisonConfig, shapes: Mapping[Place, ModelShape]) -> int | None:
    if config.match == "none":
        return None
    if config.budget is not None:
        return config.budget
    assert config.reference is not None, "filled in when the config is read"
    method = build_method(config.methods[config.reference])
    shape = shapes[next(iter(config.suites)), config.reference]
    return sum(method.count_parameters(shape).values())


def _sized(
    method: Method, settings: MethodSettings, shape: ModelShape, budget: int | None
) -> Sized:
    resized = None if budget is None else method.resized(shape, budget)
    chosen = resized or settings
    built = build_method(chosen)
    parameters = sum(built.count_parameters(shape).values())
    off = None if budget is None or resized is None else parameters / budget - 1
    size = _describe_size(built, chosen, shape, parameters)
    return Sized(method=chosen, size=size, parameters=parameters, off_budget=off)


def _describe_size(
    method: Method, settings: MethodSettings, shape: ModelShape, parameters: int
) -> str:
    """The settings that would change with the budget, such as ``r=24, alpha=48``."""
    others = [method.resized(shape, budget) for budget in (2 * parameters, parameters // 2 + 1)]
    changed = [dict(_leaves(other.model_dump(mode="json"))) for other in others if other]
    changing = {
        path.rpartition(".")[2]: value
        for path, value in _leaves(settings.model_dump(mode="json"))
        if value is not None and any(other.get(path) != value for other in changed)
    }
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, (int, float)) else f"{name}={value}"
        for name, value in sorted(changing.items(), key=lambda item: (len(item[0]), item[0]))
    )


def _leaves(section: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _twins(suite: str, methods: Mapping[str, Sized]) -> list[str]:
    """The pairs of labels whose cells would be the same."""
    labels = list(methods)
    return [
        f"{suite}, {label}: the same as {other} ({methods[label].size or 'same settings'}): "
        "duplicate cells"
        for number, label in enumerate(labels)
        for other in labels[:number]
        if methods[label].method == methods[other].method
    ]
