"""`lorapar run` on the tiny model, for real: everything is made, then reused; a change re-runs what it must."""

import json
import signal
import time

import pytest

from lorapar.config import load_config
from lorapar.errors import BadInputError, ExitCode, IntegrityError, StoppedError
from lorapar.local.folder import RunFolder
from lorapar.local.runner import run_local
from lorapar.progress import Silent
from lorapar.stages.graph import GRAPH, node_names

TINY = {"preset": "tiny"}
ALWAYS = {"plan", "publish", "gate", "report"}
"""What is never reused; promote comes only after a better verdict, which the tiny random model does not earn."""


class Spoken(Silent):
    """A progress that remembers which nodes ran and which were reused."""

    def __init__(self):
        self.lines = {}
        self.node = ""

    def __call__(self, prefix):
        self.node = prefix.split("] ")[1].rstrip(":")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def log(self, line):
        self.lines.setdefault(self.node, []).append(line)

    def ran(self):
        return {node for node, lines in self.lines.items() if any(line.startswith("done in") for line in lines)}


def test_a_run_leaves_what_people_come_for(tiny_run):
    for name in ("report.html", "metrics.json", "lineage.json", "config.yaml", "adapter/adapter_model.safetensors"):
        assert (tiny_run / name).is_file(), name
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    for model in ("base", "after_sft", "after_rl"):
        assert {"system1_accuracy", "system2_accuracy"} <= set(metrics[model])
    assert {row["node"] for row in metrics["timings"]} == set(node_names()) - {"promote"}
    assert 0 < metrics["partition"]["jaccard"] <= 1


def test_the_published_adapter_loads_with_plain_peft(tiny_run):
    from peft import PeftConfig

    assert PeftConfig.from_pretrained(tiny_run / "adapter").base_model_name_or_path == "builtin:tiny"


def test_a_second_run_reuses_every_stage_that_may_be(tiny_copy):
    spoken = Spoken()
    run_local(load_config(**TINY), tiny_copy, spoken)
    assert spoken.ran() == ALWAYS


def test_a_changed_rl_setting_reruns_nothing_before_rl(tiny_copy):
    spoken = Spoken()
    run_local(load_config(**TINY, overrides=["rl.learning_rate=1e-4"]), tiny_copy, spoken)
    assert spoken.ran() == ALWAYS | {"rl", "evaluate", "execute"}
    assert any("rl.learning_rate" in line for line in spoken.lines["rl"])


def test_a_tampered_artifact_is_noticed_and_made_again(tiny_copy):
    scores = tiny_copy / "stages" / "score-system1" / "scores" / "scores.safetensors"
    good = scores.read_bytes()
    scores.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    spoken = Spoken()
    run_local(load_config(**TINY), tiny_copy, spoken)
    assert "score-system1" in spoken.ran()
    assert any("not those the manifest names" in line for line in spoken.lines["score-system1"])
    assert scores.read_bytes() == good
    assert "sft" not in spoken.ran(), "equal scores again, so nothing after them has to run"


def test_two_runs_with_one_seed_make_the_same_adapter(cli, tiny_run, tmp_path):
    """With as many threads: on some processors these change how a product is summed up."""
    cli("run", "--preset", "tiny", "--until", "publish", "--out", tmp_path / "twin")
    mine = RunFolder(tmp_path / "twin").record("publish").outputs
    assert mine["adapter"] == RunFolder(tiny_run).record("publish").outputs["adapter"]


def test_until_stops_and_a_later_run_goes_on(tmp_path):
    spoken = Spoken()
    run_local(load_config(**TINY), tmp_path / "run", spoken, until="partition")
    assert "sft" not in spoken.lines
    assert (tmp_path / "run" / "report.html").is_file()
    again = Spoken()
    run_local(load_config(**TINY), tmp_path / "run", again, until="sft")
    assert again.ran() == {"plan", "sft"}


def test_fresh_forgets_what_was_made(tiny_copy):
    spoken = Spoken()
    run_local(load_config(**TINY), tiny_copy, spoken, until="prepare", fresh=True)
    assert spoken.ran() == {"plan", "prepare"}
    assert RunFolder(tiny_copy).record("rl") is None
    assert (tiny_copy / "cache" / "votes.sqlite").is_file(), "votes stay until teachers are asked again"


def test_an_unknown_stage_names_the_nearest(tmp_path):
    with pytest.raises(BadInputError, match="did you mean 'partition'"):
        run_local(load_config(**TINY), tmp_path / "run", Spoken(), until="partiton")


def test_only_one_run_works_in_a_folder(tmp_path):
    with (
        RunFolder(tmp_path / "run").locked(),
        pytest.raises(BadInputError, match="another run is working in this folder"),
    ):
        run_local(load_config(**TINY), tmp_path / "run", Spoken())


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)]
)
def test_a_stopped_run_says_so_and_continues(start_cli, tmp_path, sent, code):
    folder = tmp_path / "run"
    process = start_cli("run", "--preset", "tiny", "--out", folder)
    _wait_for(folder / "work", "sft-*", process)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors
    spoken = Spoken()
    run_local(load_config(**TINY), folder, spoken, until="sft")
    assert spoken.ran() == {"plan", "sft"}


def _wait_for(folder, pattern, process, seconds=120):
    end = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {pattern} within {seconds} s"
        time.sleep(0.01)


def test_a_stage_refuses_an_input_whose_bytes_have_changed(tiny_copy, cli, tmp_path):
    labels = tiny_copy / "stages" / "init" / "adapter" / "adapter_model.safetensors"
    labels.write_bytes(labels.read_bytes() + b"x")
    result = cli(
        "stage", "score", "--preset", "tiny", "--param", "system=system1",
        "--input", f"adapter={tiny_copy}/stages/init/adapter", "--input", f"rows={tiny_copy}/stages/tally/system1",
        "--output", f"scores={tmp_path}/scores",
    )  # fmt: skip
    assert result.returncode == ExitCode.INTEGRITY
    assert "adapter_model.safetensors" in result.stderr
    assert IntegrityError.exit_code == ExitCode.INTEGRITY


def test_records_say_how_each_artifact_came_about(tiny_run):
    for node in (node for node in GRAPH if node.when is None):
        record = RunFolder(tiny_run).record(node.name)
        assert record is not None
        assert record.seconds >= 0
        assert record.peak_memory_bytes > 0
        assert set(record.inputs) == set(node.inputs)


def test_a_failed_run_does_not_leave_an_earlier_runs_adapter_as_its_own(tiny_copy):
    from lorapar.errors import TrainingError

    changed = load_config(**TINY, overrides=["sft.learning_rate=1e30", "sft.max_steps=6"])
    with pytest.raises(TrainingError, match="last good adapter"):
        run_local(changed, tiny_copy, Spoken())
    assert not (tiny_copy / "adapter").exists()
    assert not (tiny_copy / "lineage.json").exists()
    assert json.loads((tiny_copy / "metrics.json").read_text())["after_sft"] is None
    run_local(load_config(**TINY), tiny_copy, Spoken())
    assert (tiny_copy / "adapter" / "adapter_model.safetensors").is_file()


def test_the_adapter_is_there_even_where_evaluation_fails(tiny_copy, monkeypatch):
    import lorapar.stages.evaluate as stage

    def fail(call):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "run", fail)
    with pytest.raises(StoppedError, match="interrupted during evaluate"):
        run_local(load_config(**TINY, overrides=["rl.learning_rate=1e-4"]), tiny_copy, Spoken())
    assert (tiny_copy / "adapter" / "adapter_model.safetensors").is_file()


def test_trackers_run_no_stage_again_and_one_that_is_away_stops_nothing(
    tiny_copy, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    trackers = "report.trackers=[tensorboard, mlflow]"
    # Its registry is the shared run's: there publish finds the version, and must not write.
    result = cli("run", "--preset", "tiny", "--out", tiny_copy, "--set", trackers, "--until", "rl")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("reused, nothing it depends on has changed") == 11
    assert "trackers: mlflow failed (" in result.stdout
    assert "Traceback" not in result.stderr
    assert all(list((tiny_copy / "tensorboard" / part).iterdir()) for part in ("sft", "rl", "summary"))
