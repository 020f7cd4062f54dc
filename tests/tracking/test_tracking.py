"""A run in experiment trackers: real event files, MLflow's own client over a real store, servers that are silent."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState, TrainingArguments

from lorapar.errors import BadInputError
from lorapar.tracking import Summary, TrackedRun, Tracking, flat, of_a_step, services, tracked, unique_names

LONG = "x" * 9000


@pytest.fixture(autouse=True)
def no_settings_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client reads its variables, and ours sets some: each test begins without."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", *services._MLFLOW_ENVIRONMENT):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def run(tmp_path: Path) -> TrackedRun:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "lineage.json").write_text('{"name": "maths"}', encoding="utf-8")
    return TrackedRun.of("maths", tmp_path, "settings")


def summary(run: TrackedRun, **more: Any) -> Callable[[bool], Summary]:
    files = [run.folder / "lineage.json", run.folder / "adapter", run.folder / "missing.json"]
    metrics = {"votes, all": 3.0, "votes_ all": 4.0, "broken": float("inf")}
    return lambda finished: Summary(finished, metrics, {"data.path": LONG, "seed": "0"}, files=files, **more)


def train(shown: Tracking, stage: str, steps: int = 3, after: Callable[[int], None] = lambda step: None) -> None:
    """What a trainer tells its callbacks; `after` is called when a step is logged."""
    arguments = TrainingArguments(output_dir="unused", report_to="none", use_cpu=True, run_name=stage)
    state, control = TrainerState(), TrainerControl()
    callbacks = shown.callbacks(stage)
    for callback in callbacks:
        callback.on_train_begin(arguments, state, control, model=None)
    for step in range(1, steps + 1):
        state.global_step = step
        logs = {"loss": 1 / step, "grad_norm": float("nan"), "rewards/my, own": 0.5, "kl": float("inf"), "note": "N/A"}
        for callback in callbacks:
            callback.on_log(arguments, state, control, logs=logs)
        after(step)
    for callback in callbacks:
        callback.on_train_end(arguments, state, control)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_holds_curves_and_what_came_of_the_run(run: TrackedRun) -> None:
    curves = {"rl": [{"step": 1, "reward": 0.25}, {"step": 2, "reward": 0.5}]}
    with tracked(["tensorboard"], run, pytest.fail, summary(run, curves=curves)) as shown:
        assert shown is not None
        assert shown.ids == {"tensorboard": str(run.folder / "tensorboard")}
        train(shown, "sft")
    folder = run.folder / "tensorboard"
    sft = scalars(folder / "sft")
    assert sft["train/loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert [(step, str(value)) for step, value in sft["train/kl"]] == [(1, "inf"), (2, "inf"), (3, "inf")]
    assert [str(value) for _, value in sft["train/grad_norm"]] == ["nan", "nan", "nan"]
    assert scalars(folder / "rl")["train/reward"] == [(1, 0.25), (2, 0.5)]
    assert scalars(folder / "summary")["votes, all"] == [(0, 3.0)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return MlflowClient(tracking_uri=f"file://{tmp_path / 'mlruns'}")


def runs(client: Any, name: str = "maths") -> dict[str, Any]:
    """Runs of an experiment by their stage."""
    experiment = client.get_experiment_by_name(name).experiment_id
    return {one.data.tags["lorapar.stage"]: one for one in client.search_runs([experiment])}


def shows_loss(client: Any) -> bool:
    """Whether any run of the experiment shows one; of a run whose files are being written, any may be missing."""
    from mlflow.exceptions import MlflowException

    try:
        return any("loss" in one.data.metrics for one in runs(client).values())
    except (KeyError, MlflowException):
        return False


def test_mlflow_loses_no_figure_to_a_bad_name_a_text_or_infinity(run: TrackedRun, store: Any) -> None:
    with tracked(["mlflow"], run, pytest.fail, summary(run)) as shown:
        assert shown is not None
        train(shown, "sft")
        train(shown, "rl")
    found = runs(store)
    whole, sft = found["run"], found["sft"]
    assert shown.ids == {"mlflow": whole.info.run_id}
    assert (whole.info.status, sft.info.status) == ("FINISHED", "FINISHED")
    assert sft.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert {name: str(value)[:4] for name, value in sft.data.metrics.items()} == {
        "loss": "0.33",
        "grad_norm": "nan",
        "rewards/my_ own": "0.5",
    }
    assert (sft.data.tags["step 3: kl"], sft.data.tags["step 1: note"]) == ("inf", "N/A")
    assert whole.data.metrics == {"votes_ all": 3.0, "votes_ all_2": 4.0}
    assert whole.data.tags["broken"] == "inf"
    assert whole.data.params["data.path"].endswith("… (whole in config.yaml)")
    assert {file.path for file in store.list_artifacts(whole.info.run_id)} == {"lineage.json", "adapter"}


def test_what_mlflow_did_not_take_while_the_run_went_on_is_sent_at_its_end(run: TrackedRun, store: Any) -> None:
    """Its store is away from the first step on, and comes back before the run ends."""
    lines: list[str] = []
    experiments, away = run.folder / "mlruns", run.folder / "away"
    with tracked(["mlflow"], run, lines.append, summary(run)) as shown:
        assert shown is not None

        def lose_the_store(step: int) -> None:
            if step == 1:
                wait_for(lambda: shows_loss(store))
                experiments.rename(away)
            else:
                wait_for(lambda: bool(lines))

        train(shown, "sft", after=lose_the_store)
        shutil.rmtree(experiments, ignore_errors=True)
        away.rename(experiments)
    failed, again = lines
    assert failed.startswith("mlflow failed (")
    assert failed.endswith("; the run goes on, and what is missing there is sent at its end")
    assert again == "mlflow answers again, and has all that was missing"
    sft = runs(store)["sft"]
    history = store.get_metric_history(sft.info.run_id, "loss")
    assert sorted((one.step, one.value) for one in history) == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert sft.data.tags["step 3: kl"] == "inf"
    assert runs(store)["run"].info.status == "FINISHED"


def slowly(callback: Any, seconds: float) -> Any:
    """A callback whose server takes its time for each step."""
    sent = callback.on_log

    def on_log(*given: Any, **named: Any) -> None:
        time.sleep(seconds)
        sent(*given, **named)

    callback.on_log = on_log
    return callback


def test_steps_that_a_slow_mlflow_has_not_taken_by_the_end_are_sent_together(
    run: TrackedRun, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other they would take 60 s, and nothing of the run's end would be sent."""

    class Slow(services._MLflow):
        def callback(self, stage: str) -> Any:
            return slowly(super().callback(stage), seconds=1)

    monkeypatch.setitem(services.TRACKERS, "mlflow", Slow)
    monkeypatch.setattr("lorapar.tracking.run.LAST_SECONDS", 30.0)
    with tracked(["mlflow"], run, pytest.fail, summary(run)) as shown:
        assert shown is not None
        train(shown, "sft", steps=60)
    whole, sft = runs(store)["run"], runs(store)["sft"]
    assert [one.step for one in store.get_metric_history(sft.info.run_id, "loss")] == list(range(1, 61))
    assert sft.data.tags["step 60: kl"] == "inf"
    assert sft.data.params["run_name"] == "sft", "what the callback sends at the beginning of a stage"
    assert (whole.info.status, sft.info.status) == ("FINISHED", "FINISHED")


class Forgetful(services._TensorBoard):
    """Takes steps only while the run goes on, as Weights & Biases does."""

    catches_up = services._Wandb.catches_up

    def curve(self, stage: str, steps: object) -> None:
        pass


def test_tracker_that_takes_no_step_afterwards_keeps_what_waits(
    run: TrackedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Forgetful):
        def callback(self, stage: str) -> Any:
            return slowly(super().callback(stage), seconds=0.1)

    monkeypatch.setitem(services.TRACKERS, "tensorboard", Slow)
    with tracked(["tensorboard"], run, pytest.fail, summary(run)) as shown:
        assert shown is not None
        train(shown, "sft", steps=5)
    assert [step for step, _ in scalars(run.folder / "tensorboard" / "sft")["train/loss"]] == [1, 2, 3, 4, 5]


def test_tracker_that_takes_no_step_afterwards_is_not_said_to_have_all(
    run: TrackedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    class Late(Forgetful):
        def open(self) -> str:
            if not lines:
                raise ConnectionError("away")
            return super().open()

    monkeypatch.setitem(services.TRACKERS, "tensorboard", Late)
    with tracked(["tensorboard"], run, lines.append, summary(run)) as shown:
        assert shown is not None
        train(shown, "sft")
    failed, again = lines
    assert failed.startswith("tensorboard failed (ConnectionError: away)")
    assert failed.endswith("the run goes on, and what is known then is sent at its end")
    assert again == (
        "tensorboard answers again, and has what is known at the end; steps that it missed may be lacking there, "
        "and are in the run's folder"
    )


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until, "not within 30 s"
        time.sleep(0.02)


def test_mlflow_shows_the_kept_completions_as_one_table_however_often_they_are_sent(
    run: TrackedRun, store: Any
) -> None:
    lines = [
        {"step": 1, "completion": "4", "reward": 1.0, "rewards": {"exact_answer": 1.0}},
        {"step": 2, "completion": "5", "reward": None, "rewards": {"exact_answer": None, "own": 0.5}},
    ]
    rollouts = run.folder / "rollouts.jsonl"
    rollouts.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    for _ in range(2):
        with tracked(["mlflow"], run, pytest.fail, summary(run, rollouts=rollouts)):
            pass
    found = runs(store)["run"]
    path = store.download_artifacts(found.info.run_id, "rollouts.json", str(run.folder))
    assert json.loads(Path(path).read_text(encoding="utf-8")) == {
        "columns": ["step", "completion", "reward", "rewards.exact_answer", "rewards.own"],
        "data": [[1, "4", 1.0, 1.0, None], [2, "5", None, None, 0.5]],
    }
    shown = store.load_table(found.info.experiment_id, "rollouts.json")
    assert shown["step"].tolist() == [1, 2]


def test_mlflow_shows_a_run_that_is_started_again_as_one(run: TrackedRun, store: Any) -> None:
    def interrupted() -> None:
        with tracked(["mlflow"], run, pytest.fail, summary(run)) as shown:
            assert shown is not None
            train(shown, "sft", steps=1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert runs(store)["run"].info.status == "FAILED"
    reused = {"sft": [{"step": 1, "loss": 7.0}], "rl": [{"step": 1, "reward": 0.5}]}
    with tracked(["mlflow"], run, pytest.fail, summary(run, curves=reused)):
        pass
    found = runs(store)
    assert sorted(found) == ["rl", "run", "sft"]
    assert found["run"].info.status == "FINISHED"
    assert found["sft"].data.metrics["loss"] == 1.0, "this step was there already"
    assert found["rl"].data.metrics == {"reward": 0.5}


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield
        for one in kept:
            one.close()


@pytest.mark.usefixtures("silent_server")
def test_server_that_does_not_answer_holds_up_nothing(run: TrackedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorapar.tracking.run.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("lorapar.tracking.run.LAST_SECONDS", 0.5)
    lines: list[str] = []
    began = time.monotonic()
    with tracked(["mlflow", "tensorboard"], run, lines.append, summary(run)) as shown:
        assert shown is not None
        assert list(shown.ids) == ["tensorboard"]
        train(shown, "sft")
    assert lines == [
        "mlflow did not answer within 0.2 s; the run goes on, and what is missing there is sent at its end",
        "mlflow did not take everything within 0.5 s; the run ends without it, and all figures are in its folder",
    ]
    assert "train/loss" in scalars(run.folder / "tensorboard" / "sft")
    assert time.monotonic() - began < 60, "MLflow's own waiting would take minutes"


def test_server_that_is_not_there_is_reported_once_and_tried_again_at_the_end(
    run: TrackedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hushhush@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lines: list[str] = []
    with tracked(["mlflow"], run, lines.append, summary(run)) as shown:
        assert shown is not None
        train(shown, "sft")
    assert all(line.startswith("mlflow failed (") for line in lines)
    assert "hushhush" not in str(lines)
    first, last = lines
    assert first.endswith("the run goes on, and what is missing there is sent at its end")
    assert last.endswith("the run ends without it, and all figures are in its folder")


def test_without_trackers_nothing_is_opened(run: TrackedRun) -> None:
    with tracked([], run, pytest.fail, summary(run)) as shown:
        assert shown is None


def test_mlflow_without_a_server_is_refused(run: TrackedRun) -> None:
    with pytest.raises(BadInputError, match="set MLFLOW_TRACKING_URI"), tracked(["mlflow"], run, print, summary(run)):
        pass


def test_tracker_without_its_package_is_refused(run: TrackedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(services._PACKAGES, "tensorboard", "no_such_package")
    with (
        pytest.raises(BadInputError, match=r"tensorboard needs the package no_such_package.*lorapar\[track\]"),
        tracked(["tensorboard"], run, print, summary(run)),
    ):
        pass


def test_names_and_values_of_a_step() -> None:
    assert of_a_step({"a,b": 1, "a_b": 2.5, "c": "N/A", "d": float("nan"), "e": -float("inf")}) == (
        {"a_b": 1.0, "a_b_2": 2.5, "d": pytest.approx(float("nan"), nan_ok=True)},
        {"c": "N/A", "e": "-inf"},
    )
    assert unique_names({"no_say/a": 1, "no_say/": 2, "(é)": 3}) == {"no_say/a": 1, "no_say": 2, "___": 3}


@given(st.lists(st.text("ab.,/ é\n", max_size=300) | st.just("a" * 300), unique=True, max_size=6))
def test_mlflow_takes_every_name(names: list[str]) -> None:
    """One that it does not take loses a whole step, and where it is sent beside the training nobody is told."""
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    named = unique_names(dict.fromkeys(names, 0.0))
    assert len(named) == len(names)
    for name in named:
        _validate_metric_name(name)
        _validate_param_name(name)


def test_leaves_of_settings() -> None:
    assert dict(flat({"a": {"b": [1, 2]}, "c": [{"d": None}]})) == {"a.b": [1, 2], "c.0.d": None}
