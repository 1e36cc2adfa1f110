"""`peml tune`: one config, one study folder; safe to kill and to call again."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from peml.errors import RunError
from peml.execution.executor import Executor
from peml.records.plan import Identity, Plan
from peml.records.study import StudyRecord
from peml.reporting.tuning.page import write_tuning_report
from peml.run.announcement import print_cautions
from peml.run.identity import check_finished, check_identity
from peml.run.pipeline import plan
from peml.tuning.collect import BEST, collect, write_results
from peml.tuning.driver import Driver, run_trials
from peml.tuning.folder import StudyFolder
from peml.tuning.ledger import Ledger
from peml.tuning.settings import StudyConfig
from peml.tuning.space import first_values
from peml.tuning.storage import Patience


@dataclass(frozen=True)
class Tuned:
    """A finished study.

    ``report.html``, ``trials.csv`` and its other files are in `folder`.
    """

    folder: Path
    study: StudyRecord

    @property
    def best(self) -> Path | None:
        """The file of the best config, ready for `peml fit`; None if no trial finished."""
        return self.folder / BEST if self.study.best else None


def check_study(config: StudyConfig) -> Plan:
    """Tries the first point of the space on model and data, without training.

    Returns:
        The plan of that run, as `peml fit --dry-run` gives it.

    Raises:
        PemlError: It can't run.
    """
    return plan(config.trial_config(first_values(config.space)))


def tune(
    config: StudyConfig,
    output: Path,
    console: Console | None = None,
    *,
    report_only: bool = False,
) -> Tuned:
    """Runs trials until the budget is used up, and reports.

    A study that is in `output` already is continued. `report_only`: run nothing, and report the
    trials that are there.

    Raises:
        PemlError: Something is wrong with config, data, model, folder or storage, or the first
            trials all failed. A later trial that fails is recorded instead.
    """
    console = console or Console(quiet=True)
    folder = StudyFolder(output)
    planned: Plan | None = None
    with folder.locked():
        if not folder.holds(config):
            if report_only:
                raise RunError(
                    f"{output} holds no study to report",
                    allowed="the folder of a study that was started",
                    action="check the path, or run the same command without --report",
                )
            planned = check_study(config)
            print_cautions(planned, console)
            folder.create(config)
        ledger = _ledger(config, folder, console)
        if not report_only:
            driver = Driver(config, folder, ledger, console)
            if driver.is_open:
                now = (planned or check_study(config)).identity
                check_identity(ledger.begun_with(now), now, output)
            else:
                first = config.trial_config(first_values(config.space))
                check_finished(ledger.begun_with(), first, output)
            with driver.executor() as executor:
                run_trials([driver], executor)
        study = _collect(config, folder, ledger)
        write_tuning_report(output)
    return Tuned(output, study)


def tune_together(
    studies: Iterable[tuple[Path, StudyConfig, Identity]],
    executor: Executor,
    console: Console,
    *,
    pages: bool,
) -> None:
    """Runs several studies, without pruners, whose configs the caller has checked.

    `studies` has the folder and config of each, and the checksums of its inputs. The
    `executor` must be idle, and is left open; `pages` says whether to write a report of each study.

    Raises:
        PemlError: As for `tune`.
    """
    opened = []
    with ExitStack() as stack:
        for output, config, identity in studies:
            folder = StudyFolder(output)
            stack.enter_context(folder.locked())
            if not folder.holds(config):
                folder.create(config)
            ledger = _ledger(config, folder, console)
            driver = Driver(config, folder, ledger, console, f"{config.name}, ")
            if driver.is_open:
                check_identity(ledger.begun_with(identity), identity, output)
            opened.append((config, folder, ledger, driver))
        run_trials([driver for *_, driver in opened], executor)
        for config, folder, ledger, _ in opened:
            _collect(config, folder, ledger)
            if pages:
                write_tuning_report(folder.path)


def _ledger(config: StudyConfig, folder: StudyFolder, console: Console) -> Ledger:
    patience = Patience(config.storage, console)
    return Ledger(config, folder.journal, folder.driver().id, patience)


def _collect(config: StudyConfig, folder: StudyFolder, ledger: Ledger) -> StudyRecord:
    study = collect(config, folder, ledger)
    write_results(config, folder, study)
    return study
