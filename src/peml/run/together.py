"""Checks that the processes of a run agree before it begins."""

from pathlib import Path

from peml.config.grants import without_grants
from peml.config.model import RunConfig
from peml.distributed import World
from peml.errors import ConfigError, RunError
from peml.records.plan import Identity, Plan
from peml.run.folder import RunFolder
from peml.run.identity import identify_run
from peml.run.preparation import Prepared, prepare
from peml.run.weights import check_sharding
from peml.run.work_folder import differences
from peml.versions import read_versions

_PACKAGES = ("peml", "torch", "transformers", "peft")


def check_same_start(config: RunConfig, output: Path, world: World) -> None:
    """Refuses processes that were started differently.

    Raises:
        RunError: Another config, folder or version in one of them.
    """
    mine = {
        "config": without_grants(config.model_dump(mode="json")),
        "output": str(output),
        "version": read_versions(_PACKAGES),
    }
    first, *others = world.gather(mine)
    for number, other in enumerate(others, 1):
        if other != first:
            raise RunError(
                "the processes of the run were started differently; from process 0 to process "
                f"{number}: {differences(first, other)}",
                allowed="one config, one --output and the same package versions in all processes",
                action="start them with one command; nothing was changed",
            )


def with_world(config: RunConfig, world: World, begun: int | None = None) -> RunConfig:
    """The config with the batches per step decided: at least one for each process.

    ``begun`` is their number in a run that is continued, whatever its processes were.

    Raises:
        ConfigError: The batches can't be shared equally by the processes.
    """
    batches = begun or max(config.training.accumulation, world.size)
    if batches % world.size:
        where = "as at the run's start" if begun else "as training.accumulation says"
        raise ConfigError(
            f"a step has {batches} batches, {where}, which {world.size} processes can't share "
            "equally",
            allowed=f"a number of processes that divides {batches}"
            + ("" if begun else f", or training.accumulation a multiple of {world.size}"),
            action="start it in another number of processes; nothing was changed",
        )
    training = config.training.model_copy(update={"accumulation": batches})
    return config.model_copy(update={"training": training})


def prepare_together(
    config: RunConfig, folder: RunFolder, world: World
) -> tuple[Prepared, Identity]:
    """Prepares a run in all its processes; the first goes before the others and fills the cache.

    Raises:
        PemlError: See `prepare`; or the rows, tasks or models of two processes differ.
    """
    before = world.from_first(lambda: Plan.find(folder.path))
    begun = None if before is None else before.batches_per_step
    config = with_world(config, world, begun)
    precision = world.from_first(lambda: folder.precision())
    prepared = prepare(config, precision) if world.is_first else None
    precision = world.from_first(lambda: prepared.precision if prepared else None)
    prepared = prepared or prepare(config, precision)
    check_sharding(prepared)
    identity = identify_run(prepared)
    # Before anything of the folder is loaded.
    world.from_first(lambda: folder.check_identity(identity))
    first, *others = (one.model_dump() for one in world.gather(identity))
    for number, other in enumerate(others, 1):
        if other != first:
            raise RunError(
                f"process {number} has other rows, tasks or another base model than process 0: "
                f"{differences(first, other)}",
                allowed="the same files on all machines",
                action="copy them to all machines, or use a shared disk; nothing was changed",
            )
    return prepared, identity
