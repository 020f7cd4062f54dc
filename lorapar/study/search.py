"""Search settings by successive halving (Optuna) on cells of a study: a trial that a cheaper look rules out stops.

OUT/search.yaml        the search and its base settings
OUT/journal.log        Optuna's own record of the trials; the same command goes on from it
OUT/cells/ OUT/store/  the trials' runs and the stages that they share, as of any study
OUT/best.yaml          the settings found, for `lorapar run --config`
OUT/report.md trials.csv   the evidence: every trial, how far it came and why it ended
OUT/confirm/           a study of the settings found against those given, with other seeds
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml

from lorapar.config import SYSTEMS, RunConfig, apply_override, dump_changed, parse_settings, validate_settings
from lorapar.config.study import StudyCell, StudyConfig, Values
from lorapar.config.training import PhaseConfig
from lorapar.config.tune import Dimension, TuneConfig
from lorapar.errors import BadInputError
from lorapar.extras import pip_install
from lorapar.local.folder import RunFolder
from lorapar.records import read_json
from lorapar.store import write_atomically
from lorapar.study.cells import Cell, cells_of
from lorapar.study.folder import StudyFolder
from lorapar.study.report import Rows, write_study_report
from lorapar.study.runner import CellsFailedError, Log, Reporter, StudyRun

if TYPE_CHECKING:
    import optuna

    from lorapar.study.remote import Cluster

_ACCURACY_UNIT = 1000.0
"""The weight of a share of right answers against a nat of loss, so that loss only breaks ties."""
SCORED = tuple(f"score-{system}" for system in SYSTEMS)
"""Nodes whose scores the sweep reads."""
_SWEEPABLE = ("partition.theta", "partition.alpha", "partition.beta")


@dataclass(frozen=True)
class Search:
    """One search, on this machine or in Kubeflow."""

    tune: TuneConfig
    base: RunConfig
    folder: StudyFolder
    store: str
    reporter: Reporter
    log: Log
    cluster: Cluster | None = None
    """The cluster where trials run, if not on this machine."""

    def run(self) -> Path:
        """Make the remaining trials, confirm the best, and write the results; returns the report's path.

        The caller locks the folder. Raises StoppedError when stopped; the same call then goes on.
        """
        if self.base.system_names != SYSTEMS:
            raise BadInputError("lorapar tune searches settings of system1 and system2; leave `systems` out of them")
        self._keep_settings()
        study = _opened(self.folder.root / "journal.log", self.tune)
        _take_up(study, self._given())
        scores = self._scores()
        while (number := _tried(study)) < self.tune.trials:
            study.sampler = _sampler(self.tune, number)
            self._try(study, study.ask(), scores)
            self._write(study)
            scores = scores or self._copied_scores()
        report = self._write(study)
        self._confirm(study)
        return report

    def _keep_settings(self) -> None:
        """Write the search's settings; raises BadInputError where the folder has another search."""
        path = self.folder.root / "search.yaml"
        search = self.tune.model_dump(mode="json", exclude_defaults=True, exclude={"trials", "confirm_seeds"})
        values = {"search": search, "base": yaml.safe_load(dump_changed(self.base)) or {}}
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise BadInputError(f"{path}: another search, or one of other settings, was made here; give another --out")
        write_atomically(path, text)

    def _given(self) -> Values | None:
        """The base settings' values of all searched settings; None where one is outside its range."""
        plain = self.base.model_dump(mode="json")
        found: Values = {}
        for key, dimension in self.tune.space.items():
            value: Any = plain
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if not _inside(dimension, value):
                return None
            found[key] = value
        return found

    def _scores(self) -> Any:
        """Scores by system, read once; None where trials have different scores, so that a sweep is impossible.

        In Kubeflow a run goes on to its end, so the first trial runs without them.
        """
        if not self._is_sweepable():
            return None
        if self.cluster is not None:
            return self._copied_scores()
        first = self._cell("scores", {}, until="partition")
        self._cells([first], until="partition")
        return _read_scores(self.folder.run(first))

    def _copied_scores(self) -> Any:
        """The scores copied from an earlier trial in Kubeflow, equal for all trials; None before."""
        if self.cluster is None or not self._is_sweepable():
            return None
        runs = (RunFolder(path) for path in sorted(self.folder.root.glob("cells/*/run")))
        return next((_read_scores(run) for run in runs if all(map(run.record, SCORED))), None)

    def _is_sweepable(self) -> bool:
        others = [key for key in self.tune.space if key.partition(".")[0] not in ("partition", "sft", "rl", "evaluate")]
        config = self._cell("scores", {}, until="partition").config
        plan = config.partition
        if others or not config.adapter.is_partitioned:
            return False
        return plan.choose == "importance" and plan.budget is None and plan.mask == "both"

    def _try(self, study: optuna.Study, trial: optuna.Trial, scores: Any) -> None:
        import optuna

        values = {key: _suggested(trial, key, dimension) for key, dimension in self.tune.space.items()}
        if scores is not None and (reason := self._too_few(scores, values)) is not None:
            trial.set_user_attr("why", reason)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return
        for place, share in enumerate(self.tune.looks):
            cell = self._cell(f"trial {trial.number} look {place + 1}", {**values, **self._shortened(share, values)})
            try:
                self._cells([cell])
            except CellsFailedError as error:
                trial.set_user_attr("why", f"failed: {str(error).partition('; the same command')[0]}")
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                return
            metrics = self._metrics(cell)
            trial.set_user_attr(f"look {place + 1}", metrics)
            value = _value(metrics, final=share == 1.0)
            trial.report(value, place + 1)
            if share < 1.0 and trial.should_prune():
                trial.set_user_attr("why", f"ruled out by its held-out loss after {share:.0%} of the training")
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return
        study.tell(trial, value)

    def _too_few(self, scores: Any, values: Values) -> str | None:
        """Why the sweep rules a trial out, before anything is trained."""
        from lorapar.adapter import sweep

        plan = self.base.partition
        theta, alpha, beta = (_number(values.get(key, getattr(plan, key.partition(".")[2]))) for key in _SWEEPABLE)
        (row,) = sweep(scores, [theta], shared=dict(zip(SYSTEMS, (alpha, beta), strict=True)))
        for stage, system in zip(("SFT", "RL"), SYSTEMS, strict=True):
            if row.active_fraction(system) < self.tune.least_active:
                return f"ruled out by the sweep: {stage} would train {row.active_fraction(system):.2%} of the elements"
        return None

    def _shortened(self, share: float, values: Values) -> Values:
        """Settings for a share of a trial's training; before the last look answers have one token, for the loss."""
        if share == 1.0:
            return {}
        whole = self._cell("whole", values).config
        short: Values = {"evaluate.max_new_tokens": 1}
        for name, section in (("sft", whole.sft), ("rl", whole.rl)):
            length = "epochs" if section.max_steps is None else "max_steps"
            short[f"{name}.{length}"] = _cut(length, getattr(section, length), share)
        named = [one for one in whole.phases if isinstance(one, PhaseConfig)]
        if any({"max_steps", "epochs"} & set(one.settings) for one in named):
            short["phases"] = [_shorter(one, share) for one in named]
        return short

    def _cell(self, name: str, values: Values, until: Any = "execute") -> Cell:
        study = self._study([StudyCell(name=name, settings=values)], until)
        return cells_of(study, self.base, self.store)[0]

    def _study(self, cells: list[StudyCell], until: Any = "execute") -> StudyConfig:
        return StudyConfig(
            name=self.tune.name,
            title="Which settings are best?",
            until=until,
            seeds=(self.tune.seed,),
            settings=self.tune.settings,
            cells=tuple(cells),
        )

    def _cells(self, cells: list[Cell], until: Any = "execute") -> None:
        named = [StudyCell(name=cell.name, settings=cell.values) for cell in cells]
        self._run(self._study(named, until), cells, self.folder)

    def _run(self, study: StudyConfig, cells: list[Cell], folder: StudyFolder) -> None:
        StudyRun(study, cells, folder, self.reporter, self.log, 1, self.cluster).run()

    def _metrics(self, cell: Cell) -> dict[str, float]:
        found = read_json(self.folder.run(cell).artifact("execute", "evaluation") / "summary.json")["after_rl"]
        systems = [one for one in self.tune.measured if found.get(f"{one}_rows")]
        if not systems:
            raise BadInputError(f"measure: there is no held-out row of {self.tune.measure} to compare trials on")
        return {key: fmean(float(found[f"{one}_{key}"] or 0.0) for one in systems) for key in ("loss", "accuracy")}

    def _write(self, study: optuna.Study) -> Path:
        """Write the best settings so far, and every trial."""
        best = _best(study)
        if best is not None:
            text = dump_changed(_with(self.base, {**self.tune.settings, **best.params}))
            write_atomically(self.folder.root / "best.yaml", text)
        rows = [_row(trial, self.tune) for trial in study.trials if trial.state.is_finished()]
        made = io.StringIO()
        writer = csv.DictWriter(made, list(rows[0]) if rows else ["trial"])
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.folder.root / "trials.csv", made.getvalue())
        path = self.folder.root / "report.md"
        write_atomically(path, _report(self.tune, rows, best, study.trials))
        return path

    def _confirm(self, study: optuna.Study) -> None:
        """Compare the found settings with the given ones, with seeds that the search has not used."""
        best = _best(study)
        if best is None or not self.tune.confirm_seeds or dict(best.params) == self._given():
            return
        cells = (
            StudyCell(name="as given", settings={}),
            StudyCell(name="as found", settings=dict(best.params)),
        )
        config = self._study(list(cells)).model_copy(
            update={"name": f"{self.tune.name}-confirm", "seeds": self.tune.confirm_seeds, "reference": "as given"}
        )
        folder = StudyFolder(self.folder.root / "confirm")
        runs = cells_of(config, self.base, self.store)
        with folder.locked():
            folder.write_settings(config, self.base, self.store)
            try:
                self._run(config, runs, folder)
            finally:
                page = write_study_report(config, runs, folder)
        self.log(f"as found against as given, with other seeds: {page}")


def _read_scores(run: RunFolder) -> dict[str, Any]:
    from lorapar.adapter import load_scores

    files = [run.artifact(node, "scores") / "scores.safetensors" for node in SCORED]
    return {system: load_scores(file)[0] for system, file in zip(SYSTEMS, files, strict=True)}


def _with(base: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    settings = parse_settings(dump_changed(base), "best.yaml")
    for key, value in values.items():
        apply_override(settings, f"{key}={json.dumps(value)}")
    return validate_settings(settings, "best.yaml")


def _opened(journal: Path, tune: TuneConfig) -> optuna.Study:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ModuleNotFoundError:
        raise BadInputError(f"lorapar tune needs optuna, which is not installed here: {pip_install('tune')}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name=tune.name,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=tune.keep_one_of),
    )


def _sampler(tune: TuneConfig, number: int) -> Any:
    """One seed for each trial, so that a search that was stopped draws the same values."""
    import optuna

    return optuna.samplers.TPESampler(seed=tune.seed * 100_003 + number)


def _take_up(study: optuna.Study, given: Values | None) -> None:
    """Begin with the given settings; trials that a stop interrupted are repeated and reuse finished stages."""
    import optuna

    if not study.trials and given is not None:
        study.enqueue_trial(given)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study._storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _tried(study: optuna.Study) -> int:
    return sum(one.state.is_finished() and not one.user_attrs.get("interrupted") for one in study.trials)


def _best(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    done = [one for one in study.trials if one.state.name == "COMPLETE"]
    return max(done, key=lambda one: one.value or 0.0, default=None)


def _suggested(trial: optuna.Trial, key: str, dimension: Dimension) -> Any:
    if dimension.values:
        return trial.suggest_categorical(key, list(dimension.values))
    assert dimension.low is not None and dimension.high is not None  # noqa: S101, PT018
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)


def _inside(dimension: Dimension, value: Any) -> bool:
    if dimension.values:
        return value in dimension.values
    low, high = dimension.low, dimension.high
    return isinstance(value, int | float) and low is not None and high is not None and low <= value <= high


def _value(metrics: Mapping[str, float], *, final: bool) -> float:
    return (_ACCURACY_UNIT * metrics["accuracy"] if final else 0.0) - metrics["loss"]


def _row(trial: optuna.trial.FrozenTrial, tune: TuneConfig) -> dict[str, Any]:
    looks = [trial.user_attrs.get(f"look {place + 1}") for place in range(len(tune.looks))]
    reached = [one for one in looks if one]
    last = looks[-1]
    ended = "finished" if last else trial.user_attrs.get("why", "interrupted, and made again")
    return {
        "trial": trial.number,
        **{key: trial.params.get(key) for key in tune.space},
        **{
            f"loss after {share:.0%}": look["loss"] if look else None
            for share, look in zip(tune.looks, looks, strict=True)
        },
        "right": last["accuracy"] if last else None,
        "looks": len(reached),
        "ended": ended,
    }


def _report(tune: TuneConfig, rows: list[dict[str, Any]], best: Any, trials: list[Any]) -> str:
    ruled = sum("sweep" in row["ended"] for row in rows)
    short = sum("held-out loss" in row["ended"] for row in rows)
    paragraphs = [
        f"# {tune.name}",
        f"{len(rows)} trials on {tune.measure}: {sum(row['ended'] == 'finished' for row in rows)} trained to the end, "
        f"{short} ruled out by held-out loss, {ruled} by the sweep before anything was trained.",
    ]
    if best is not None:
        found = ", ".join(f"{key} {_rounded_text(value)}" for key, value in best.params.items())
        paragraphs.append(f"Best: trial {best.number} ({found}). `lorapar run --config best.yaml` trains with it.")
        paragraphs.append(
            "It is the best of several on the same held-out rows, which flatters it. Where it is not what was given "
            "and there are `confirm_seeds`, `confirm/report.md` compares the two on other seeds."
        )
    heads = tuple(rows[0]) if rows else ("trial",)
    lines = [tuple("–" if value is None else _rounded_text(value) for value in row.values()) for row in rows]  # noqa: RUF001
    return "\n\n".join([*paragraphs, Rows(heads, lines, tuple(range(len(heads) - 1))).markdown()]) + "\n"


def _number(value: Any) -> float:
    return float(value)


def _shorter(phase: PhaseConfig, share: float) -> dict[str, Any]:
    """A named phase with this share of its own steps or epochs."""
    own = {
        key: _cut(key, value, share) if key in ("max_steps", "epochs") and value is not None else value
        for key, value in phase.settings.items()
    }
    return {**phase.model_dump(mode="json"), "settings": own}


def _cut(length: str, value: Any, share: float) -> int | float:
    return max(1, round(share * value)) if length == "max_steps" else share * _number(value)


def _rounded_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
