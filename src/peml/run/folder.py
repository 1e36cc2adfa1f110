"""The run folder and its files."""

import platform
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from peml.config.grants import dump_shared, without_grants
from peml.config.loading import load_config, parse_config, read_config
from peml.config.model import RunConfig
from peml.errors import RunError
from peml.files import write_text
from peml.records.plan import Identity, Plan, Precision
from peml.records.run import Environment, Results
from peml.run.identity import check_identity
from peml.run.work_folder import WorkFolder, differences
from peml.tasks.yaml_file import read_yaml
from peml.training.checkpoints import CheckpointStore
from peml.versions import read_versions

_PACKAGES = ("peml", "torch", "transformers", "peft", "accelerate", "datasets", "numpy")
_CONFIG = "config.yaml"


class RunFolder(WorkFolder[RunConfig]):
    """The files of one run."""

    noun, command = "run folder", "peml fit"
    held = "a run of another config"
    unchanged = "the config the run was started with"
    config_file, before_config = _CONFIG, Environment.FILE
    free = ("output", "tracking", "export", "tasks", "model.name", "init_from", "tuning_cost")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"  # the final one
        self.genotype = path / "genotype.json"  # the chosen network
        self.metrics = path / "metrics.jsonl"  # the log, one JSON object per line

    def store(self, keep: int) -> CheckpointStore:
        """The run's checkpoints, of which the newest few are kept."""
        return CheckpointStore(self.checkpoints, keep, self.path / Plan.FILE)

    @property
    def has_results(self) -> bool:
        """Whether everything is trained and scored."""
        return (self.path / Results.FILE).is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished: it has results and a report."""
        return self.has_results and (self.path / "report.md").is_file()

    def lacks_model(self, config: RunConfig) -> bool:
        """Whether the config wants the final model, and it isn't there."""
        return config.export and not self.model.is_dir()

    @property
    def has_page(self) -> bool:
        """Whether the report is drawn, too."""
        return (self.path / "report.html").is_file()

    def create(self, config: RunConfig) -> None:
        """Makes the folder; does nothing if the folder already has a run of this config.

        Raises:
            RunError: See `holds`; or the folder can't be written.
        """
        now = _environment()
        if self.holds(config):
            self._compare_versions(now)
            if self.config().export != config.export:
                write_text(self.path / _CONFIG, dump_shared(config))
            return
        now.write(self.path)
        write_text(self.path / _CONFIG, dump_shared(config))  # last: it makes it a run folder

    def _compare_versions(self, now: Environment) -> None:
        """Warns if an unfinished run was begun with other versions of packages."""
        if self.has_results:
            return
        before = Environment.find(self.path)
        if before is None:
            raise RunError(
                f"{self.path / Environment.FILE} is missing",
                allowed="the file that the run wrote when it began, which its report shows",
                action="restore it, or choose another --output; nothing was changed",
            )
        if changed := differences(before.versions, now.versions):
            warnings.warn(
                f"{self.path} was begun with other packages, which may compute other numbers: "
                f"{changed}. Its {Environment.FILE} names those of its beginning",
                stacklevel=2,
            )

    def _changed(self, config: RunConfig) -> str:
        # Another folder or tracker doesn't make it another run, nor does a model that is saved
        # after all, nor the permission to run the model's code, which is never stored.
        before = load_config(self.path / _CONFIG)
        ignored = {"output", "tracking", "export"}
        dumped = (one.model_dump(mode="json", exclude=ignored) for one in (before, config))
        return differences(*map(without_grants, dumped))

    def _begun_with(self) -> dict[str, Any]:
        plan = Plan.find(self.path)
        return plan.config if plan else {}

    def _advice(self, changed: str) -> str:
        if not (self.is_finished and changed.startswith("training.epochs was")):
            return super()._advice(changed)
        return (
            "a finished run isn't trained further in its folder: rates, warm-up and search are "
            "planned over all steps, so with other epochs its first steps would have been others "
            f"too. To train its weights further, choose another --output and set init_from: "
            f"{self.path}"
        )

    def check_identity(self, identity: Identity) -> None:
        """Refuses to continue with other rows, tasks or base model, see `check_identity`."""
        before = Plan.find(self.path)
        if before is not None:
            check_identity(before.identity, identity, self.path)

    def precision(self) -> Precision | None:
        """The precision of a run that was started before; None for a new run.

        Raises:
            RunError: The run's plan doesn't say.
        """
        before = Plan.find(self.path)
        if before is None:
            return None
        if before.precision is None:
            raise RunError(
                f"{self.path / Plan.FILE} doesn't record the precision of the run",
                allowed="the file that the run wrote when it began",
                action="restore it, or choose another --output; nothing was changed",
            )
        return before.precision

    def check_plan(self, planned: Plan) -> None:
        """Stores the plan of a new run; refuses to continue with data that changed since.

        Raises:
            RunError: Rows, tokens or steps differ from those when the run began.
        """
        before = Plan.find(self.path)
        if before is None:
            planned.model_copy(update={"config": self.fixed(read_yaml(self.path / _CONFIG))}).write(
                self.path
            )
            return
        changed = differences(before.data, planned.data)
        if planned.start is not None and planned.start != before.start:
            changed = changed or f"init_from, {planned.start.source}, has other weights"
        if changed:
            raise RunError(
                f"the data changed since the run in {self.path} began: {changed}",
                allowed="the data the run was started with",
                action="restore the data, or choose another --output; nothing was changed",
            )

    def config(self) -> RunConfig:
        """The resolved config of the run, without permissions."""
        path = self.path / _CONFIG
        if not path.is_file():
            raise RunError(
                f"{self.path} is no run folder: it has no {_CONFIG}",
                action="give the folder that `peml fit` printed",
            )
        return parse_config(without_grants(read_config(path, (), RunConfig)), str(path))


def _environment() -> Environment:
    device = f"CPU {platform.processor() or platform.machine()}"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    return Environment(
        versions=read_versions(_PACKAGES),
        python=sys.version.split()[0],
        device=f"{device}, {torch.get_num_threads()} threads",
        commit=_commit(),
    )


def _commit() -> str | None:
    """The git commit of the source tree of the package; None if it runs from none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
