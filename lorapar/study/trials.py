"""Trials of a search in Optuna's record: drawn, compared at each look, gone on with after a stop or a failure."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.config import RunConfig
from lorapar.config.mistakes import kinds_at
from lorapar.config.study import TEACHERS_COUNT, Values
from lorapar.config.tune import Dimension, TuneConfig
from lorapar.errors import BadInputError, LoraparError
from lorapar.extras import pip_install

if TYPE_CHECKING:
    import optuna

_ACCURACY_UNIT = 1000.0
"""The weight of a share of right answers against a nat of loss, so that loss only breaks ties."""
FAILED = "failed"
"""Attribute of a trial that failed: the line that says why, and the exit code.

Such a trial has not ended for Optuna, and neither has one that was interrupted: the next start goes on with both under
the same numbers, so that each is in the comparisons once.
"""


def opened(journal: Path, tune: TuneConfig) -> optuna.Study:
    """The trials so far. The caller has locked the folder.

    Raises BadInputError where the record is broken, or of an earlier version that compared other looks.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ModuleNotFoundError:
        raise BadInputError(f"lorapar tune needs optuna, which is not installed here: {pip_install('tune')}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = journal.absolute()
    Path(f"{journal}.lock").unlink(missing_ok=True)  # left by a process that was killed; Optuna would wait for it
    _check_lines(journal)
    try:
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name=tune.name,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=tune.keep_one_of),
        )
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError):
        raise _broken(journal, "its lines do not follow from each other") from None
    _refuse_other_looks(study, tune, journal)
    return study


def _check_lines(journal: Path) -> None:
    """Refuse broken lines, and cut off a last one that a stop left half written: Optuna would write on in it."""
    try:
        with journal.open("rb+") as file:
            content = file.read()
            whole, newline, _ = content.rpartition(b"\n")
            file.truncate(len(whole + newline))
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadInputError(f"{journal}: cannot be read ({error.strerror}); mend it or give another --out") from None
    for number, line in enumerate(whole.split(b"\n") if newline else [], 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or "op_code" not in record:
            raise _broken(journal, f"line {number} is no record of Optuna")


def _broken(journal: Path, why: str) -> BadInputError:
    return BadInputError(
        f"{journal}: {why}; put a copy of the file back, or give another --out with the same --store "
        f"({journal.parent / 'store'} where none was named), where finished stages are used again"
    )


def _refuse_other_looks(study: optuna.Study, tune: TuneConfig, journal: Path) -> None:
    """Raise BadInputError for the record of an earlier version that cannot be gone on with."""
    for trial in study.get_trials(deepcopy=False):
        for place in range(len(tune.looks) - 1):
            compared, look = trial.system_attrs.get(f"completed_rung_{place}"), trial.user_attrs.get(_look(place))
            if compared is not None and (look is None or compared != value_of(look, final=False)):
                raise BadInputError(
                    f"{journal}: an earlier version of lorapar compared trials after other looks; give another --out"
                )
        for key, drawn in trial.distributions.items():
            if is_whole(key) and type(drawn).__name__ == "FloatDistribution":
                raise BadInputError(
                    f"{journal}: an earlier version of lorapar drew fractions for {key}; give another --out"
                )


def begin_with(study: optuna.Study, given: Values | None) -> None:
    """Let the given settings be the first trial, where the space has them."""
    if not study.trials and given is not None:
        study.enqueue_trial(given)


def to_go_on_with(study: optuna.Study, tune: TuneConfig) -> Iterator[optuna.Trial]:
    """Trials that a stop interrupted or that failed, with the values they had."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        study.sampler = _sampler(tune, trial.number)
        yield optuna.Trial(study, trial._trial_id)


def drawn(study: optuna.Study, tune: TuneConfig) -> optuna.Trial:
    """A new trial."""
    study.sampler = _sampler(tune, len(_begun(study)))
    return study.ask()


def _sampler(tune: TuneConfig, number: int) -> Any:
    """One seed for each trial, so that a search that was stopped draws the same values."""
    import optuna

    return optuna.samplers.TPESampler(seed=tune.seed * 100_003 + number)


def tried(study: optuna.Study) -> int:
    """How many trials count; those that an earlier version of lorapar gave up as failed do not."""
    return sum(one.state.name != "FAIL" for one in _begun(study))


def _begun(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    trials = study.get_trials(deepcopy=False)
    return [one for one in trials if one.state.name != "WAITING" and not one.user_attrs.get("interrupted")]


def shown(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials for the report: all that have ended or failed."""
    return [one for one in study.trials if one.state.is_finished() or one.user_attrs.get(FAILED)]


def best_of(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """The trial with the best value of those that were trained to the end."""
    done = [one for one in study.trials if one.value is not None and one.state.name == "COMPLETE"]
    return max(done, key=lambda one: one.value or 0.0, default=None)


def is_whole(key: str) -> bool:
    """Whether a setting takes whole numbers only."""
    return key == TEACHERS_COUNT or kinds_at(key.split("."), RunConfig) == [int]


def takes_range(key: str) -> bool:
    """Whether a setting takes numbers."""
    return is_whole(key) or float in kinds_at(key.split("."), RunConfig)


def ends_of(key: str, dimension: Dimension) -> tuple[float, float]:
    """The ends of a range, as whole numbers where the setting takes no others."""
    low, high = (int(end) if is_whole(key) and end.is_integer() else end for end in dimension.ends)
    return low, high


def suggested(trial: optuna.Trial, key: str, dimension: Dimension) -> Any:
    """The value of one setting in a trial."""
    if dimension.values:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Choices for a categorical distribution")  # JSON keeps lists
            return trial.suggest_categorical(key, list(dimension.values))
    low, high = ends_of(key, dimension)
    if is_whole(key):
        return trial.suggest_int(key, int(low), int(high), log=dimension.log)
    return trial.suggest_float(key, low, high, log=dimension.log)


def keep_look(trial: optuna.Trial, place: int, metrics: Mapping[str, Any]) -> None:
    """Note what a look measured."""
    trial.set_user_attr(_look(place), dict(metrics))


def look_of(trial: optuna.trial.FrozenTrial, place: int) -> Mapping[str, Any] | None:
    """What a look measured; None where the trial did not come so far."""
    metrics: Mapping[str, Any] | None = trial.user_attrs.get(_look(place))
    return metrics


def _look(place: int) -> str:
    return f"look {place + 1}"


def is_ruled_out(study: optuna.Study, trial: optuna.Trial, place: int, value: float, tune: TuneConfig) -> bool:
    """Whether a trial ends at this look, because others were better at it.

    Looks are steps 1, k, k², ... for k = keep_one_of: there Optuna's halving compares, and nowhere between.
    """
    step = tune.keep_one_of**place
    known = study.get_trials(deepcopy=False)[trial.number].intermediate_values
    if any(later > step for later in known):
        return False
    if step not in known:
        trial.report(value, step)
    return tune.looks[place] < 1.0 and trial.should_prune()


def rule_out(study: optuna.Study, trial: optuna.Trial, why: str) -> None:
    """End a trial."""
    import optuna

    trial.set_user_attr("why", why)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)


def keep_failure(trial: optuna.Trial, error: LoraparError) -> None:
    """Note why a trial failed; it has not ended, and the next start tries it again."""
    trial.set_user_attr(FAILED, {"line": str(error), "exit_code": int(error.exit_code)})


def failure_of(trial: optuna.trial.FrozenTrial) -> Mapping[str, Any] | None:
    """Why a trial failed at its last start; None where it did not."""
    failure: Mapping[str, Any] | None = trial.user_attrs.get(FAILED)
    return None if trial.state.is_finished() else failure


def value_of(metrics: Mapping[str, Any], *, final: bool) -> float:
    """What trials are compared by: held-out loss, and after the whole training right answers before it."""
    right = metrics["accuracy"] or 0.0  # None for all trials, where no row has a reference
    return float((_ACCURACY_UNIT * right if final else 0.0) - metrics["loss"])
