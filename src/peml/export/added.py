"""Puts tasks with contexts beside those of a saved model; all that was there stays as it is."""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from peml.errors import RunError
from peml.export.native import CONTEXTS
from peml.export.saved import DESCRIPTION, SavedModel, describe
from peml.files import MANIFEST, atomic_folder, write_bytes, write_tensors
from peml.tasks import Task

_CARD = "README.md"
_NEXT_SECTION = "## How to use it"


@dataclass(frozen=True, slots=True)
class AddedTask:
    """A task to add.

    Attributes:
        task: The task, with the rows that its context shows.
        context: Keys and values, (layers, 2, kv_heads, positions, head_dim).
        cells: The last cells of its row in the model card's table.
    """

    task: Task
    context: Tensor
    cells: tuple[object, ...]

    @property
    def row(self) -> str:
        """Its row in the model card's table."""
        return f"| {' | '.join(map(str, (self.task.name, self.task.type, *self.cells)))} |\n"


def refuse_known_names(saved: SavedModel, tasks: Sequence[Task]) -> None:
    """Refuses tasks that have the name of one of the model's."""
    names = [each.name for each in saved.description.tasks]
    for task in tasks:
        if task.name in names:
            raise RunError(
                f"the model has a task {task.name!r}",
                allowed=f"a name other than {', '.join(names)}",
                action="rename the new task; nothing was changed",
            )


def parts_beside(saved: SavedModel) -> list[str]:
    """The files of trained parts that are neither merged weights nor contexts."""
    tensors = sorted(name for name in saved.files if name.endswith(".safetensors"))
    return [name for name in tensors if "/" not in name and name != CONTEXTS]


def add(saved: SavedModel, added: Sequence[AddedTask], section: str) -> None:
    """Writes the model's folder anew, with more tasks.

    Args:
        saved: The model.
        added: The new tasks.
        section: The model card's section with their table, up to the table's head.
    """
    contexts = saved.tensors(CONTEXTS) if CONTEXTS in saved.files else {}
    contexts |= {each.task.name: each.context for each in added}
    tasks = (*saved.description.tasks, *(each.task for each in added))
    # What people wrote into a card later would otherwise be sealed with the rest.
    cards = {path.name: path.read_bytes() for path in saved.folder.glob("README*")}
    if _CARD in cards:
        card = cards[_CARD].decode(errors="surrogateescape")
        card = _with_rows(card, section, "".join(each.row for each in added))
        cards[_CARD] = card.encode(errors="surrogateescape")
    with atomic_folder(saved.folder) as partial:
        kept = shutil.ignore_patterns(".*", "README*", MANIFEST, DESCRIPTION, CONTEXTS)
        shutil.copytree(saved.folder, partial, ignore=kept, copy_function=_link, dirs_exist_ok=True)
        write_tensors(partial / CONTEXTS, contexts)
        describe(partial, saved.description.model_copy(update={"tasks": tasks}))
    for name, content in cards.items():
        write_bytes(saved.folder / name, content)


def _with_rows(card: str, section: str, rows: str) -> str:
    """A model card with more rows in a section's table; the text of users is kept."""
    if section not in card:
        before, following, after = card.partition(_NEXT_SECTION)
        card = f"{before.rstrip()}\n\n{section}\n{following}{after}"
    table = re.compile(re.escape(section) + r"(\|.*\n)*")
    return table.sub(lambda found: found[0] + rows, card, count=1)


def _link(source: str, target: str) -> str:
    """Makes a hard link, or a copy if the disk doesn't support links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
