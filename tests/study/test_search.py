"""`lorapar tune` with workers that end at once: what is compared, ruled out, gone on with and refused."""

import csv
import hashlib
import json
import random
from multiprocessing import Pipe

import pytest
import torch
import typer.testing
import yaml

from lorapar.adapter.scores import save_scores
from lorapar.cli import app
from lorapar.cli.base import reporter
from lorapar.config import load_config, validate_settings
from lorapar.config.tune import validate_search
from lorapar.errors import BadInputError, StoppedError
from lorapar.local.folder import RunFolder, StageRecord
from lorapar.study.folder import StudyFolder
from lorapar.study.runner import CellsFailedError
from lorapar.study.search import Search, _too_few

pytest.importorskip("optuna")

RATE = {"space": {"rl.learning_rate": {"low": 1e-4, "high": 1e-2}}, "confirm_seeds": []}
"""A search over one setting."""


class Ended:
    """A worker that has done its work before anyone looks."""

    def __init__(self, exitcode=0):
        self.exitcode = exitcode
        self.sentinel, ended = Pipe(duplex=False)
        ended.close()

    def is_alive(self):
        return False

    def join(self):
        self.sentinel.close()

    def terminate(self):
        pass


class Training:
    """Stands in for the runs: each leaves scores and the evaluation that `outcome` says, or a line and an exit code."""

    def __init__(self, monkeypatch):
        self.started = []
        monkeypatch.setattr("lorapar.study.runner.start", self._start)
        monkeypatch.setattr("os.fsync", lambda _: None)  # which takes most of the time of such a search

    @staticmethod
    def outcome(name, config):
        """Loss and right answers by chance, the same for the same cell."""
        draw = random.Random(hashlib.sha256(name.encode()).digest())
        return draw.uniform(1, 2), draw.random()

    def _start(self, work):
        name = work.settings.parent.name.removesuffix("-seed0")
        self.started.append(name)
        run = RunFolder(work.out)
        for system in ("system1", "system2"):
            keep(run, f"score-{system}", "score")
            run.artifact(f"score-{system}", "scores").mkdir(exist_ok=True)
            save_scores(run.artifact(f"score-{system}", "scores") / "scores.safetensors", SCORES[system], {})
        if work.until == "partition":
            keep(run, "partition", "partition")
            return Ended()
        outcome = self.outcome(name, load_config(file=work.settings))
        if isinstance(outcome, str):
            work.log.write_text(f"lorapar: {outcome}\n")
            return Ended(4)
        keep(run, "execute", "execute")
        values = {"system2_rows": 5, "system2_loss": outcome[0], "system2_accuracy": outcome[1]}
        path = run.artifact("execute", "evaluation") / "summary.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"after_rl": values}))
        return Ended()


def keep(run, node, stage):
    run.node(node).mkdir(parents=True, exist_ok=True)
    record = StageRecord(node=node, stage=stage, version="0", settings={}, inputs={}, code="")
    (run.node(node) / "stage.json").write_text(record.model_dump_json())


DRAW = torch.Generator().manual_seed(0)
SCORES = {one: {"a.lora_A.weight": torch.rand(8, 40, generator=DRAW) ** 6} for one in ("system1", "system2")}


@pytest.fixture
def training(monkeypatch):
    return Training(monkeypatch)


def tuned(out, values, *more):
    """Calls the command in this process; raises what it ends with."""
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(values))
    command = ["tune", str(file), "--preset", "tiny", "--out", str(out), *more]
    return typer.testing.CliRunner().invoke(app, command, catch_exceptions=False).stdout


def trials_of(out):
    return list(csv.DictReader((out / "trials.csv").open()))


@pytest.mark.parametrize("keep_one_of", [3, 4])
def test_after_each_look_about_one_of_so_many_trials_goes_on(training, tmp_path, keep_one_of):
    tuned(tmp_path / "out", {**RATE, "keep_one_of": keep_one_of, "trials": 26})
    rows = trials_of(tmp_path / "out")
    for look, share in ((1, "10%"), (2, "40%")):
        reached = [row for row in rows if int(row["looks"]) >= look]
        losses = [float(row[f"loss after {share}"]) for row in reached]
        for number, (row, loss) in enumerate(zip(reached, losses, strict=True), 1):
            best = sorted(losses[:number])[: max(1, number // keep_one_of)]
            assert (int(row["looks"]) > look) == (loss in best), "among the best of those that came so far"
        assert sum(int(row["looks"]) > look for row in reached) == pytest.approx(len(reached) / keep_one_of, abs=5)
        rows = [row for row in reached if int(row["looks"]) > look]


def test_a_search_that_was_stopped_ends_as_one_that_was_not(training, tmp_path):
    """A trial goes on under its own number with its own values, and is in the comparisons once."""
    search = {**RATE, "trials": 8}
    tuned(tmp_path / "whole", search)
    whole = training.started[:]
    training.started.clear()
    plain, stops = training.outcome, {"trial-0-look-2", "trial-4-look-1"}

    def stopped(name, config):
        if name in stops:
            stops.remove(name)
            raise KeyboardInterrupt
        return plain(name, config)

    training.outcome = stopped
    for _ in range(2):
        with pytest.raises(StoppedError):
            tuned(tmp_path / "out", search)
    tuned(tmp_path / "out", search)
    for name in ("trials.csv", "report.md", "best.yaml"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert set(training.started) == set(whole), "no trial under another number"


def test_when_every_trial_failed_the_first_failure_is_told_and_the_same_command_tries_them_again(training, tmp_path):
    search = {**RATE, "trials": 3}
    training.outcome = lambda name, config: f"{name}: no1.csv is not there"
    with pytest.raises(CellsFailedError, match=r"3 failed \(trial 0: .*no1\.csv is not there\); the same") as failed:
        tuned(tmp_path / "out", search)
    assert failed.value.exit_code == 4
    assert not (tmp_path / "out" / "best.yaml").exists()
    assert "No settings are found" in (tmp_path / "out" / "report.md").read_text()
    training.outcome = lambda name, config: "not yet" if name == "trial-1-look-1" else (1.0, 0.5)
    told = tuned(tmp_path / "out", search)
    assert "failed trials: 1 (the report says why); the same command tries them again" in told
    assert [row["ended"][:6] for row in trials_of(tmp_path / "out")] == ["finish", "failed", "finish"]
    assert (tmp_path / "out" / "best.yaml").is_file()
    training.outcome = lambda name, config: (0.5, 0.5)
    training.started.clear()
    tuned(tmp_path / "out", search)
    assert {name[:7] for name in training.started} == {"trial-1"}, "the others are kept"
    assert [row["ended"] for row in trials_of(tmp_path / "out")] == ["finished"] * 3


def test_when_the_sweep_rules_out_all_trials_that_is_told(training, tmp_path):
    search = {"space": {"partition.theta": {"low": 0.01, "high": 0.02}}, "least_active": 0.2, "trials": 2}
    with pytest.raises(BadInputError, match=r"the sweep ruled out 2, .* least_active \(20\.00%\)"):
        tuned(tmp_path / "out", search)
    assert training.started == ["scores"]
    assert "No settings are found" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"partition.theat": {"low": 0.5, "high": 1}}, r"space, partition\.theat: no such key \(did you mean 'theta'"),
        ({"partition.theta": {"low": 1.2, "high": 1.5}}, r"partition\.theta: must lie in \(0, 1\] \(got 1\.2\)"),
        ({"partition.theta": {"low": 0.5, "high": 1.5}}, r"partition\.theta: must lie in \(0, 1\] \(got 1\.5\)"),
        ({"adapter.init": {"values": ["residual", "pisa"]}}, r"adapter\.init: must be .*got 'pisa'"),
        ({"rl.max_steps": {"low": 1.5, "high": 4}}, r"rl\.max_steps: must be a whole number"),
        ({"teachers.count": {"low": 1, "high": 99}}, r"teachers\.count: must be a whole number from 1"),
        ({"sft.mixing": {"low": 0, "high": 1}}, r"no such key"),
        ({"rl.score_again": {"low": 0, "high": 1}}, r"takes no numbers; give its values, no range"),
    ],
)
def test_what_no_trial_could_have_is_refused_before_anything_is_made(training, tmp_path, space, told):
    with pytest.raises(BadInputError, match=told):
        tuned(tmp_path / "out", {"space": space})
    assert not (tmp_path / "out").exists()
    assert training.started == []


def test_a_range_of_a_setting_that_counts_has_whole_numbers(training, tmp_path):
    steps = []
    training.outcome = lambda name, config: steps.append(config.rl.max_steps) or (1.0, 0.5)
    search = {"space": {"rl.max_steps": {"low": 1, "high": 9, "log": True}}, "looks": [1], "confirm_seeds": []}
    tuned(tmp_path / "out", {**search, "trials": 8})
    assert steps[0] == load_config(preset="tiny").rl.max_steps, "as given comes first"
    assert len(set(steps)) > 2
    assert set(steps) <= set(range(1, 10))


def test_values_that_do_not_go_together_fail_their_trial_only(training, tmp_path):
    space = {"phases": {"values": [["sft", "rl"], ["rl", "sft"]]}, "rl.score_again": {"values": [False, True]}}
    tuned(tmp_path / "out", {"space": space, "trials": 8, "looks": [1], "confirm_seeds": []})
    rows = trials_of(tmp_path / "out")
    odd = [row for row in rows if row["phases"] == "['rl', 'sft']" and row["rl.score_again"] == "True"]
    assert odd
    assert all("its values do not go together: rl.score_again scores" in row["ended"] for row in odd)
    assert all(row["ended"] == "finished" for row in rows if row not in odd)


@pytest.mark.parametrize(
    ("settings", "ruled_out"),
    [
        ({}, "SFT would train"),
        ({"partition.theta": 0.9}, None),
        ({"partition.mask": "none"}, None),
        ({"partition.mask": "rl"}, "RL would train"),
        ({"partition.choose": "random"}, None),
        ({"partition.budget_elements": 300}, None),
        ({"phases": ["rl"]}, "RL would train"),
        ({"rl.score_again": True, "partition.mask": "rl"}, None),
    ],
)
def test_the_sweep_judges_what_a_trial_masks_by_theta_whoever_sets_it(settings, ruled_out):
    base = load_config(preset="tiny").model_dump(mode="json", exclude_defaults=True)
    for key, value in {"partition.theta": 0.3, **settings}.items():
        section, _, name = key.rpartition(".")
        (base.setdefault(section, {}) if section else base)[name] = value
    found = _too_few(SCORES, validate_settings(base, "s"), 0.1)
    assert (found is None) == (ruled_out is None)
    assert ruled_out is None or ruled_out in found


def test_the_sweep_reads_the_settings_of_the_search(training, tmp_path):
    search = {**RATE, "settings": {"partition.theta": 0.3}, "least_active": 0.2, "trials": 2}
    with pytest.raises(BadInputError, match="the sweep ruled out 2"):
        tuned(tmp_path / "out", search)
    mask = {
        "space": {"partition.mask": {"values": ["none"]}},
        "settings": search["settings"],
        "least_active": 0.2,
        "confirm_seeds": [],
    }
    tuned(tmp_path / "other", {**mask, "trials": 1})
    assert trials_of(tmp_path / "other")[0]["ended"] == "finished"


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("search.yaml", lambda path: path.write_bytes(b"\xff\xfe"), "search.yaml is not UTF-8"),
        ("journal.log", lambda path: path.write_bytes(b"\xff\n" + path.read_bytes()), "line 1 is no record of Optuna"),
        ("journal.log", lambda path: path.write_text(path.read_text().replace("}\n", "\n", 1)), "line 1 is no record"),
        ("journal.log", lambda path: path.write_text("[]\n" + path.read_text()), "line 1 is no record"),
        ("journal.log", lambda path: path.write_text(path.read_text().replace("study_name", "n")), "do not follow"),
        ("journal.log", lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    ],
)
def test_a_broken_file_of_a_search_is_one_line_and_nothing_is_lost(training, tmp_path, name, damage, told):
    tuned(tmp_path / "out", {**RATE, "trials": 1})
    damage(tmp_path / "out" / name)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(BadInputError, match=told):
        tuned(tmp_path / "out", {**RATE, "trials": 1})
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_a_last_line_that_was_cut_and_a_lock_that_was_left_do_not_stop_a_search(training, tmp_path):
    """Optuna would write on in the cut line, and then never read the file again."""
    tuned(tmp_path / "out", {**RATE, "trials": 2})
    first, journal = trials_of(tmp_path / "out"), tmp_path / "out" / "journal.log"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "worker')
    (tmp_path / "out" / "journal.log.lock").symlink_to("nowhere")
    for trials in ("3", "4"):
        tuned(tmp_path / "out", {**RATE, "trials": 2}, "--trials", trials)
    assert len(trials_of(tmp_path / "out")) == 4
    assert trials_of(tmp_path / "out")[:2] == first


def test_the_folder_of_a_study_is_refused(training, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.yaml").write_text("study: {}\n")
    with pytest.raises(BadInputError, match="is the folder of a study; give another --out"):
        tuned(tmp_path / "out", RATE)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["study.yaml"]


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf")])
def test_a_trial_without_a_loss_does_not_win(training, tmp_path, loss):
    training.outcome = lambda name, config: (loss, 1.0) if name == "trial-1-look-3" else (1.0, 0.5)
    tuned(tmp_path / "out", {**RATE, "trials": 2})
    rows = trials_of(tmp_path / "out")
    assert "trial 1 look 3: the evaluation has no finite loss of system2" in rows[1]["ended"]
    best = load_config(file=tmp_path / "out" / "best.yaml")
    assert best.rl.learning_rate == float(rows[0]["rl.learning_rate"])


def test_without_reference_answers_the_loss_decides(training, tmp_path):
    losses = {"trial-0-look-1": 2.0, "trial-1-look-1": 1.0}
    training.outcome = lambda name, config: (losses[name], None)
    tuned(tmp_path / "out", {**RATE, "looks": [1], "trials": 2})
    assert [row["right"] for row in trials_of(tmp_path / "out")] == ["", ""]
    assert "Best: trial 1" in (tmp_path / "out" / "report.md").read_text()


def test_fewer_trials_than_were_made_add_none(training, tmp_path):
    tuned(tmp_path / "out", {**RATE, "trials": 3})
    training.started.clear()
    told = tuned(tmp_path / "out", {**RATE, "trials": 3}, "--trials", "1")
    assert "3 trials were made before, more than the 1 asked for; none is added" in told
    assert len(trials_of(tmp_path / "out")) == 3
    assert training.started == []


def test_the_settings_found_can_say_how_many_teachers_vote(training, tmp_path):
    training.outcome = lambda name, config: (1.0, 1 / len(config.teachers))
    count = len(load_config(preset="tiny").teachers)
    search = {"space": {"teachers.count": {"low": 1, "high": count}}, "looks": [1], "confirm_seeds": []}
    tuned(tmp_path / "out", {**search, "trials": 6})
    assert trials_of(tmp_path / "out")[0]["teachers.count"] == str(count), "as given comes first"
    assert len(load_config(file=tmp_path / "out" / "best.yaml").teachers) == 1


def test_a_look_shortens_what_the_trial_itself_and_its_phases_train(tmp_path):
    """Whoever says how long: the base settings, the search, the trial's own values, or a phase."""
    phases = [
        {"system": "system1", "method": "sft", "settings": {"epochs": 3.0, "batch_size": 2}},
        {"system": "system2", "method": "rl", "settings": {"max_steps": 40}},
        {"system": "system1", "method": "rl"},
    ]
    base = validate_settings({"phases": phases, "rl": {"max_steps": 10}}, "base")
    values = {"space": {"sft.epochs": {"low": 1, "high": 4}}, "settings": {"rl.max_steps": 30}}
    search = Search(validate_search(values, "s"), base, StudyFolder(tmp_path), "store", reporter, print)
    short = search._shortened(0.1, {"sft.epochs": 2.0})
    assert short["sft.epochs"] == pytest.approx(0.2)
    assert short["rl.max_steps"] == 3
    assert [one.get("settings") for one in short["phases"]] == [
        {"epochs": pytest.approx(0.3), "batch_size": 2},
        {"max_steps": 4},
        {},
    ]
    assert search._cell("look", short).config.phases[2].of(search._cell("look", short).config.rl).max_steps == 3
    assert search._shortened(1.0, {}) == {}


def test_without_scores_the_sweep_rules_nothing_out(tmp_path):
    """An adapter that is trained as a whole has none."""
    search = validate_search({"space": {"sft.learning_rate": {"low": 1e-4, "high": 1e-2}}}, "s")
    for kind, sweepable in (("lora", True), ("dora", False)):
        base = load_config(preset="tiny", overrides=[f"adapter.kind={kind}"])
        assert Search(search, base, StudyFolder(tmp_path), "store", reporter, print)._is_sweepable() is sweepable


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"space": {"partition.theta": {"low": 1, "high": 0.5}}}, "low below high"),
        ({"space": {"partition.theta": {"low": 0, "high": 1, "log": True}}}, "no logarithm"),
        ({"space": {"seed": {"values": [1]}}}, "seed: a search sets it itself"),
        ({"space": {"partition.theta": [0.7, 0.9]}}, r"space.partition.theta: write {low: ..., high: ...} or {values"),
        ({"looks": [0.5, 0.1]}, "looks must rise and end with 1"),
        ({"looks": [0.5, 1.2]}, "looks"),
        ({"keep_one_of": 1}, "keep_one_of"),
        ({"confirm_seeds": [0]}, "0 is the seed of the search"),
        ({"confirm_seeds": [1, 2, 1]}, "confirm_seeds: 1 is there twice"),
    ],
)
def test_a_search_that_cannot_be_is_told_in_one_line(values, told):
    with pytest.raises(BadInputError, match=told):
        validate_search(values, "search.yaml")
