"""The longest input that leaves room for a prompt and the text to generate."""

from collections.abc import Iterable, Sequence

from peml.errors import ModelError
from peml.models.families import Family
from peml.tasks import Task

_LEAST = 8


def make_room(
    family: Family, tasks: Sequence[Task], max_new_tokens: int, prompt_length: int = 0
) -> None:
    """Lowers the length limit to leave room for generation and a prompt, if no config sets it.

    Called before rows are encoded. Arguments as for `check_generation`, which comes after it.
    """
    if not family.follows_rows or family.positions is None:
        return
    length = min(family.max_length, family.positions - prompt_length)
    family.max_length = max(length, _LEAST)
    generated = [task.max_new_tokens or max_new_tokens for task in tasks if task.type.generates]
    room = family.room_for_generation(prompt_length)
    if generated and room is not None:
        family.max_length = max(length - max(0, max(generated) - room), _LEAST)


def make_room_for_context(family: Family, length: int, positions: int | None) -> None:
    """Lowers the length limit by a context's positions, if neither config nor rows set the limit.

    ``positions`` is the number of positions of the model; None: no limit.
    """
    if family.follows_rows and positions is not None:
        family.max_length = max(min(family.max_length, positions - length), _LEAST)


def settle(family: Family, lengths: Iterable[int]) -> None:
    """Lowers the length limit to the longest of `lengths` (in tokens), if no config sets it."""
    if family.follows_rows:
        family.max_length = max(_LEAST, *lengths)
        family.follows_rows = False


def check_prompt(family: Family, prompt_length: int) -> None:
    """Raises a ModelError if prompt and longest input exceed a model's learned positions."""
    room = family.positions
    if room is not None and family.max_length + prompt_length > room:
        raise ModelError(
            f"a prompt of {prompt_length} vectors and {family.max_length} tokens "
            f"(model.max_length) are too long together: the model has {room} positions",
            allowed=f"at most {room} together",
            action="lower one of the two",
        )


def check_generation(
    family: Family, tasks: Sequence[Task], max_new_tokens: int, prompt_length: int = 0
) -> None:
    """Refuses to generate past a model's last position.

    `max_new_tokens` is the longest text of tasks that set no limit themselves, `prompt_length` the
    number of vectors in front of the input.

    Raises:
        ModelError: The longest input, the prompt vectors and the longest text of a task don't fit
            together; names all such tasks.
    """
    room = family.room_for_generation(prompt_length)
    if room is None:
        return
    too_long: dict[int, list[str]] = {}
    for task in tasks:
        longest = task.max_new_tokens or max_new_tokens
        if task.type.generates and longest > room:
            too_long.setdefault(longest, []).append(task.name)
    if too_long:
        prompt = f" and a prompt of {prompt_length} vectors" if prompt_length else ""
        named = "; ".join(f"{', '.join(names)}: {count}" for count, names in too_long.items())
        raise ModelError(
            f"{named} new tokens (the task's max_new_tokens, else evaluation.max_new_tokens) do "
            f"not fit after {family.max_length} tokens (model.max_length){prompt}: the model has "
            f"{family.positions} positions",
            allowed=f"at most {max(room, 0)} new tokens",
            action="lower one of the two",
        )
