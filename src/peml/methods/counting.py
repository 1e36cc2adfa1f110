"""Whether a method has attached what its closed form announces."""

from __future__ import annotations

from peml.errors import ModelError
from peml.methods.attached import AttachedModel
from peml.methods.base import Method
from peml.methods.shape import ModelShape


def check_count(method: Method, shape: ModelShape, model: AttachedModel) -> None:
    """Refuses a model that trains other parameters than its method announces.

    Tables and budgets are made from the closed form before anything is attached. While a search
    goes on its supernet trains as well, so there is nothing to compare until it has ended.

    Raises:
        ModelError: The two numbers differ.
    """
    if model.search is not None:
        return
    counts = {
        group.name: sum(parameter.numel() for parameter in group.parameters)
        for group in model.groups()
        if group.name != "heads"
    }
    low, high = method.parameter_range(shape)
    total = sum(counts.values())
    if not low <= total <= high:
        announced = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise ModelError(
            f"the method trains {total:,} parameters ({listed}) and announces {announced}; "
            "comparisons at equal size would be wrong",
            allowed="the same number",
            action="name the layers in target_modules that the method shall adapt; if it is a "
            "method of your own, correct its count_parameters",
        )
