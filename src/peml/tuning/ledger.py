"""The trials of a study in Optuna's storage; each is begun and ended exactly once."""

import platform
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState

from peml.config.grants import without_grants
from peml.errors import RunError
from peml.files import disk_errors
from peml.records.plan import Identity
from peml.records.study import State, TrialRecord
from peml.removed import without_removed
from peml.run.work_folder import differences
from peml.tuning.objectives import OBJECTIVES
from peml.tuning.sampling import WHOLE, build_pruner, build_sampler
from peml.tuning.settings import StudyConfig
from peml.tuning.storage import Patience, open_storage, shown_url

ValueT = TypeVar("ValueT")

_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
_DEFINITION = "peml:definition"
_IDENTITY = "peml:identity"
_DRIVER, _TOKEN, _SURPLUS, _STOPPED = "driver", "token", "surplus", "stopped"


class Ledger:
    """The trials of a study, in a database or a journal file.

    Every call waits until the database can be reached, and is safe to repeat. A trial belongs to
    the driver that began it; no other driver continues it.

    The `journal` file is used if the config names no database. `driver` is the id of this driver,
    the same in all sessions in its folder; `patience` waits for the database.

    Raises:
        RunError: The storage holds another study of this name, or can't be reached for too long.
    """

    def __init__(self, config: StudyConfig, journal: Path, driver: str, patience: Patience) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # its lines would run across ours
        self._config = config
        self._driver = driver
        self._patience = patience
        self._journal = journal
        storage = self._safely(lambda: open_storage(config.storage, journal))
        self.study = self._safely(
            lambda: optuna.create_study(
                study_name=config.name,
                storage=storage,
                directions=[OBJECTIVES[name].direction for name in config.objectives],
                pruner=build_pruner(config.pruner),
                load_if_exists=True,
            )
        )
        self._safely(self._check_definition)

    def _safely(self, action: Callable[[], ValueT]) -> ValueT:
        """Waits for the database; an error about the journal file names that file."""
        with disk_errors(self._journal):
            return self._patience(action)

    def _check_definition(self) -> None:
        new = self._config.definition()
        old = self.study.user_attrs.get(_DEFINITION)
        if old is None and not self.study.get_trials(deepcopy=False):
            self.study.set_user_attr(_DEFINITION, new)
            return
        changed = "it was not made by `peml tune`"
        if old is not None:
            changed = differences(without_removed(without_grants(old)), new)
        if changed:
            url = self._config.storage.url
            where = "the journal" if url is None else shown_url(url)
            raise RunError(
                f"{where} holds another study {self._config.name!r}: {changed}",
                allowed="the run, space, sampler, objectives and pruner the study was started with",
                action="give the study another name, or undo the change; nothing was changed",
            )

    def begun_with(self, identity: Identity | None = None) -> Identity:
        """Checksums of the data and model that the study was started with, for all drivers.

        The first driver stores ``identity``, those that it found on its machine.
        """

        def begun_with() -> Any:
            if identity is not None and _IDENTITY not in self.study.user_attrs:
                self.study.set_user_attr(_IDENTITY, identity.model_dump(mode="json"))
            return self.study.user_attrs.get(_IDENTITY)

        return Identity.check("the study's storage", self._safely(begun_with))

    def has_room(self) -> bool:
        """Whether there are fewer trials than the budget allows."""
        return len(self._safely(self._trials)) < self._config.most_trials

    def unfinished(self) -> list[TrialRecord]:
        """Trials that an earlier session of this driver left running."""
        return self._safely(
            lambda: [
                self._drawn(trial)
                for trial in self._trials(TrialState.RUNNING)
                if trial.user_attrs.get(_DRIVER) == self._driver
            ]
        )

    def begin(self) -> TrialRecord | None:
        """Draws a new trial; None if there are as many as the budget allows."""
        token = uuid.uuid4().hex  # finds the trial again if the answer got lost
        return self._safely(lambda: self._begin(token))

    def _begin(self, token: str) -> TrialRecord | None:
        most = self._config.most_trials
        found = self._with_token(token)
        if found is None:
            if len(self._trials()) >= most:
                return None
            marks = {_DRIVER: self._driver, _TOKEN: token}
            self.study.add_trial(
                optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=marks)
            )
            found = self._with_token(token)
            assert found is not None
        if sum(trial.number < found.number for trial in self._trials()) >= most:
            # Another driver was faster: the trial was one too many.
            if not found.state.is_finished():
                self._handle(found).set_user_attr(_SURPLUS, True)
                self.study.tell(found.number, state=TrialState.FAIL)
            return None
        return self._drawn(found)

    def report(self, number: int, percent: int, mean: float) -> bool:
        """Stores a development mean, and returns whether the trial should be stopped."""
        return self._safely(lambda: self._report(number, percent, mean))

    def _report(self, number: int, percent: int, mean: float) -> bool:
        found = self._numbered(number)
        if _STOPPED in found.user_attrs:
            return True
        trial = self._handle(found)
        if percent not in found.intermediate_values:  # as after a return to a checkpoint
            trial.report(mean, percent)
        falls_behind = trial.should_prune()  # asked at the end too: others are compared with it
        if not falls_behind or percent >= WHOLE:
            return False
        trial.set_user_attr(_STOPPED, percent)
        return True

    def settle(self, ended: TrialRecord, folder: Path) -> None:
        """Ends a trial.

        The run folder is stored together with the name of this machine.
        """

        def settle() -> None:
            found = self._numbered(ended.number)
            if found.state.is_finished():  # and the answer got lost
                return
            trial = self._handle(found)
            spent = ended.model_dump(include={"seconds", "tokens", "parameters"})
            trial.set_user_attr("spent", spent)
            trial.set_user_attr("reason", ended.reason)
            trial.set_user_attr("place", f"{platform.node()}:{folder.resolve()}")
            state = next(key for key, name in _STATES.items() if name == ended.state)
            values = [value for value in ended.objectives if value is not None]
            self.study.tell(ended.number, values or None, state)

        self._safely(settle)

    def tokens(self) -> int:
        """Training tokens of all trials that have ended, of all drivers."""
        return sum(row.tokens or 0 for row in self.rows())

    def rows(self) -> list[TrialRecord]:
        """The trials in the order of their numbers, without their folders."""
        return self._safely(lambda: [self._row(trial) for trial in self._trials()])

    def _row(self, trial: FrozenTrial) -> TrialRecord:
        return TrialRecord(
            number=trial.number,
            state=_STATES[trial.state],
            objectives=list(trial.values or ()),
            values={
                path: parameter.decode(trial.params[path])
                for path, parameter in self._config.space.items()
                if path in trial.params
            },
            reports=dict(trial.intermediate_values),
            reason=trial.user_attrs.get("reason", ""),
            driver=trial.user_attrs.get(_DRIVER, ""),
            place=trial.user_attrs.get("place", ""),
            **trial.user_attrs.get("spent", {}),
        )

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        found = self.study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in found if _SURPLUS not in trial.user_attrs]

    def _with_token(self, token: str) -> FrozenTrial | None:
        running = self.study.get_trials(deepcopy=False)
        return next((t for t in running if t.user_attrs.get(_TOKEN) == token), None)

    def _numbered(self, number: int) -> FrozenTrial:
        return next(trial for trial in self._trials() if trial.number == number)

    def _handle(self, trial: FrozenTrial) -> optuna.Trial:
        """Optuna's object for a stored trial; values that were drawn are not drawn again."""
        space = self._config.space
        self.study.sampler = build_sampler(self._config.sampler, space, trial.number)
        return optuna.Trial(self.study, trial._trial_id)

    def _drawn(self, trial: FrozenTrial) -> TrialRecord:
        handle, space, drawn = self._handle(trial), self._config.space, {}
        together = set(handle.relative_params)  # drawn now, by the trial's sampler
        for place, path in enumerate(sorted(space), start=1):
            if path not in together:  # a sampler of its own: a kill between two draws changes none
                self.study.sampler = build_sampler(self._config.sampler, space, trial.number, place)
            drawn[path] = space[path].suggest(handle, path)
        values = {path: drawn[path] for path in space}
        return TrialRecord(number=trial.number, state="running", values=values)
