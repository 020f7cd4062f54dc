"""Search settings by successive halving (Optuna) on cells of a study: a trial that a cheaper look rules out stops.

OUT/search.yaml        the search and its base settings
OUT/journal.log        Optuna's own record of the trials; the same command goes on from it
OUT/cells/ OUT/store/  the trials' runs and the stages that they share, as of any study
OUT/best.yaml          the settings found, for `lorapar run --config`
OUT/report.md trials.csv   the evidence: every trial, how far it came and why it ended
OUT/confirm/           a study of the settings found against those given, with other seeds
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml

from lorapar.config import SYSTEMS, RunConfig, dump_changed, validate_settings
from lorapar.config.load import read_text
from lorapar.config.study import TEACHERS_COUNT, StudyCell, StudyConfig, Values
from lorapar.config.training import PhaseConfig, systems_trained
from lorapar.config.tune import Dimension, TuneConfig
from lorapar.errors import BadInputError, ExitCode
from lorapar.local.folder import RunFolder
from lorapar.records import read_json
from lorapar.store import write_atomically
from lorapar.study import trials
from lorapar.study.cells import Cell, cells_of, settings_with
from lorapar.study.folder import SEARCH, StudyFolder
from lorapar.study.report import reported
from lorapar.study.runner import CellsFailedError, Log, Reporter, StudyRun
from lorapar.study.search_report import BY_LOSS, BY_SWEEP, nothing_found, search_report, trial_rows, trials_csv

if TYPE_CHECKING:
    import optuna

    from lorapar.study.remote import Cluster

SCORED = tuple(f"score-{system}" for system in SYSTEMS)
"""Nodes whose scores the sweep reads."""


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

    def check(self) -> None:
        """Refuse what no trial could have, and the folder of a study; the caller asks before the folder is made.

        Raises BadInputError that names the key of `space` or `settings`, or the folder.
        """
        root = self.folder.root
        if (root / "study.yaml").exists() and not (root / SEARCH).exists():
            raise BadInputError(f"--out {root}: is the folder of a study; give another --out")
        if self.base.system_names != SYSTEMS:
            raise BadInputError("lorapar tune searches settings of system1 and system2; leave `systems` out of them")
        plain = self._cell("settings", {})
        for key, dimension in self.tune.space.items():
            for value in dimension.values or trials.ends_of(key, dimension):
                self._check_value(key, value)
            if not dimension.values and not trials.takes_range(key):
                raise BadInputError(
                    f"search {self.tune.name}: space, {key}: takes no numbers; give its values, no range"
                )
        if self.cluster is not None:
            self.cluster.parameters(self._study([StudyCell(name="settings")]), plain)

    def _check_value(self, key: str, value: Any) -> None:
        try:
            self._cell("space", {key: value})
        except BadInputError as error:
            why = self._reason(error, "space").removeprefix(f"{key}: ")
            raise BadInputError(f"search {self.tune.name}: space, {key}: {why}") from None

    def _reason(self, error: BadInputError, cell: str) -> str:
        """What an error says of the settings of a cell that is not there to run."""
        return str(error).removeprefix(f"study {self.tune.name}, {cell}: ").removeprefix("settings: ")

    def run(self) -> Path:
        """Make the remaining trials, confirm the best, and write the results; returns the report's path.

        The caller locks the folder. Raises StoppedError when stopped; the same call then goes on. Raises
        CellsFailedError or BadInputError where no trial came to its end.
        """
        self._keep_settings()
        study = trials.opened(self.folder.root / "journal.log", self.tune)
        trials.begin_with(study, self._given())
        if (before := trials.tried(study)) > self.tune.trials:
            self.log(f"{before} trials were made before, more than the {self.tune.trials} asked for; none is added")
        scores = self._scores()
        for trial in trials.to_go_on_with(study, self.tune):
            scores = self._make(study, trial, scores)
        while trials.tried(study) < self.tune.trials:
            scores = self._make(study, trials.drawn(study, self.tune), scores)
        report = self._write(study)
        if (nothing := nothing_found(self.tune, trials.shown(study), report)) is not None:
            raise nothing
        self._tell_failed(study)
        self._confirm(study)
        return report

    def _make(self, study: optuna.Study, trial: optuna.Trial, scores: Any) -> Any:
        """Make one trial and write the results so far; returns the scores, once there are any."""
        self._try(study, trial, scores)
        self._write(study)
        return scores or self._copied_scores()

    def _tell_failed(self, study: optuna.Study) -> None:
        failed = [one.number for one in study.trials if trials.failure_of(one)]
        if failed:
            numbers = ", ".join(map(str, failed))
            self.log(f"failed trials: {numbers} (the report says why); the same command tries them again")

    def _keep_settings(self) -> None:
        """Write the search's settings; raises BadInputError where the folder has another search."""
        path = self.folder.root / SEARCH
        search = self.tune.model_dump(mode="json", exclude_defaults=True, exclude={"trials", "confirm_seeds"})
        values = {"search": search, "base": yaml.safe_load(dump_changed(self.base)) or {}}
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
        if path.exists() and read_text(path) != text:
            raise BadInputError(f"{path}: another search, or one of other settings, was made here; give another --out")
        write_atomically(path, text)

    def _given(self) -> Values | None:
        """The given settings' values of all searched settings; None where one is outside its range."""
        config = self._cell("given", {}).config
        plain = config.model_dump(mode="json")
        found: Values = {}
        for key, dimension in self.tune.space.items():
            value: Any = len(config.teachers) if key == TEACHERS_COUNT else _at(plain, key)
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
        """Whether all trials have the same scores."""
        others = [key for key in self.tune.space if key.partition(".")[0] not in ("partition", "sft", "rl", "evaluate")]
        return not others and self._cell("given", {}).config.adapter.is_partitioned

    def _try(self, study: optuna.Study, trial: optuna.Trial, scores: Any) -> None:
        """Make one trial, as far as it comes; one that fails is noted, and the search goes on."""
        values = {key: trials.suggested(trial, key, dimension) for key, dimension in self.tune.space.items()}
        try:
            config = self._cell("whole", values).config
        except BadInputError as error:  # each value is right by itself, but not with the others
            why = BadInputError(f"its values do not go together: {self._reason(error, 'whole')}")
            trials.keep_failure(trial, why)
            return
        if scores is not None and (reason := _too_few(scores, config, self.tune.least_active)) is not None:
            trials.rule_out(study, trial, reason)
            return
        value = 0.0
        for place, share in enumerate(self.tune.looks):
            try:
                metrics = self._looked(f"trial {trial.number} look {place + 1}", values, share)
            except CellsFailedError as error:
                trials.keep_failure(trial, error)
                return
            trials.keep_look(trial, place, metrics)
            value = trials.value_of(metrics, final=share == 1.0)
            if trials.is_ruled_out(study, trial, place, value, self.tune):
                trials.rule_out(study, trial, f"{BY_LOSS} after {share:.0%} of the training")
                return
        study.tell(trial.number, value)

    def _looked(self, name: str, values: Values, share: float) -> dict[str, float | None]:
        """Train a share of a trial and measure it; raises CellsFailedError where that fails."""
        cell = self._cell(name, {**values, **self._shortened(share, values)})
        try:
            self._cells([cell])
        except CellsFailedError as error:
            state = self.folder.state(cell)
            raise CellsFailedError(f"{name}: {state.line if state else error}", error.exit_code) from None
        return self._metrics(cell)

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

    def _metrics(self, cell: Cell) -> dict[str, float | None]:
        """Held-out loss and right answers, the mean of the systems that are measured."""
        found = read_json(self.folder.run(cell).artifact("execute", "evaluation") / "summary.json")["after_rl"]
        systems = [one for one in self.tune.measured if found.get(f"{one}_rows")]
        if not systems:
            raise BadInputError(f"measure: there is no held-out row of {self.tune.measure} to compare trials on")
        losses = [found.get(f"{one}_loss") for one in systems]
        if any(loss is None or not math.isfinite(loss) for loss in losses):
            why = f"the evaluation has no finite loss of {' and '.join(systems)} to compare trials by"
            raise CellsFailedError(f"{cell.name}: {why}", ExitCode.TRAINING_FAILED)
        right = [found[f"{one}_accuracy"] for one in systems if found.get(f"{one}_accuracy") is not None]
        return {"loss": fmean(losses), "accuracy": fmean(right) if right else None}

    def _write(self, study: optuna.Study) -> Path:
        """Write the best settings so far, and every trial."""
        best = trials.best_of(study)
        if best is not None:
            values = settings_with(self.base, {**self.tune.settings, **best.params}, "best.yaml")
            text = dump_changed(validate_settings(values, "best.yaml"))
            write_atomically(self.folder.root / "best.yaml", text)
        rows = trial_rows(self.tune, trials.shown(study))
        write_atomically(self.folder.root / "trials.csv", trials_csv(rows))
        path = self.folder.root / "report.md"
        write_atomically(path, search_report(self.tune, rows, best))
        return path

    def _confirm(self, study: optuna.Study) -> None:
        """Compare the found settings with the given ones, with seeds that the search has not used."""
        best = trials.best_of(study)
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
            with reported(config, runs, folder, self.log):
                self.log("as found against as given, with other seeds")
                self._run(config, runs, folder)


def _read_scores(run: RunFolder) -> dict[str, Any]:
    from lorapar.adapter import load_scores

    files = [run.artifact(node, "scores") / "scores.safetensors" for node in SCORED]
    return {system: load_scores(file)[0] for system, file in zip(SYSTEMS, files, strict=True)}


def _at(plain: Any, key: str) -> Any:
    """The value of a setting; None where there is none."""
    for part in key.split("."):
        plain = plain.get(part) if isinstance(plain, dict) else None
    return plain


def _inside(dimension: Dimension, value: Any) -> bool:
    if dimension.values:
        return value in dimension.values
    low, high = dimension.ends
    return isinstance(value, int | float) and low <= value <= high


def _too_few(scores: Any, config: RunConfig, least: float) -> str | None:
    """Why the sweep rules a trial out, before anything is trained.

    It judges what a trial masks by theta and the scores that were read: no budget, no other choice than importance, no
    stage without mask, and no RL after scoring again.
    """
    from lorapar.adapter import sweep

    plan = config.partition
    if plan.budget is not None or set(plan.choices.values()) != {"importance"}:
        return None
    (row,) = sweep(scores, [plan.theta], shared=dict(zip(SYSTEMS, (plan.alpha, plan.beta), strict=True)))
    for system, method in systems_trained(config.phases):
        masked = plan.mask in ("both", method) and not (method == "rl" and config.rl.score_again)
        if masked and row.active_fraction(system) < least:
            return f"{BY_SWEEP}: {method.upper()} would train {row.active_fraction(system):.2%} of the elements"
    return None


def _shorter(phase: PhaseConfig, share: float) -> dict[str, Any]:
    """A named phase with this share of its own steps or epochs."""
    own = {
        key: _cut(key, value, share) if key in ("max_steps", "epochs") and value is not None else value
        for key, value in phase.settings.items()
    }
    return {**phase.model_dump(mode="json"), "settings": own}


def _cut(length: str, value: Any, share: float) -> int | float:
    return max(1, round(share * value)) if length == "max_steps" else share * float(value)
