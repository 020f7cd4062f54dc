"""The command line as a person meets it: one clear line for every mistake, and its documented exit code."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

import lorapar.cli
from lorapar import __version__
from lorapar.cli import FILES, app
from lorapar.cli.base import PANELS
from lorapar.errors import ExitCode


def test_version(cli):
    assert cli("--version").stdout.strip() == f"lorapar {__version__}"


def test_presets_are_listed_and_shown(cli):
    listed = cli("presets")
    assert "tiny" in listed.stdout
    assert "paper-llama2-7b-gsm8k" in listed.stdout
    assert "name: tiny" in cli("presets", "--show", "tiny").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--preset", "tinny"], "did you mean 'tiny'"),
        (["run", "--preset", "tiny", "--set", "partition.theta=2"], "partition.theta"),
        (["run", "--preset", "tiny", "--set", "rl.lerning_rate=1"], "did you mean 'learning_rate'"),
        (["run", "--preset", "tiny", "--until", "partiton"], "did you mean 'partition'"),
        (["run", "--preset", "tiny", "--set", "model.name=./nowhere"], "not a folder"),
        (["run", "--preset", "tiny", "--set", "data.source=./rows.jsonl"], "rows.jsonl"),
        (["stage", "sftt", "--preset", "tiny"], "did you mean 'sft'"),
        (["stage", "score", "--preset", "tiny", "--input", "x=y"], "score has no such one"),
        (["stage", "init", "--preset", "tiny"], "--output adapter=FOLDER is missing"),
        (["report", "./nowhere"], "not a run folder"),
        (["partition", "./nowhere", "--sweep"], "no scores of system1"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(cli, tmp_path, arguments, message):
    if arguments[0] == "run":
        arguments = [*arguments, "--out", str(tmp_path / "run")]
    result = cli(*arguments)
    assert result.returncode == ExitCode.BAD_INPUT, result.stdout + result.stderr
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--prset", "tiny"], "lorapar run has no option --prset (did you mean '--preset'?)"),
        (["adapters", "promote", "x@1", "--alias", "../evil"], "promote has no option --alias; `lorapar adapters"),
        (["rnu"], "lorapar has no command 'rnu' (did you mean 'run'?); `lorapar --help` lists what there is"),
        (["stage"], "lorapar stage needs NAME; `lorapar stage --help` lists what there is"),
        (["serve"], "lorapar serve needs NAMES; "),
        (["gate", "a", "b"], "lorapar gate takes FOLDER; too much: b; "),
        (["schedules", "list", "b"], "lorapar schedules list takes no argument; too much: b; "),
        (["ui", "--port", "99999"], "lorapar ui: --port: input should be less than or equal to 65535; "),
        (["run", "--until"], "lorapar run: --until needs a value; `lorapar run --help` lists what there is"),
        (["adapters", "list", "--json=1"], "does not take a value; `lorapar adapters list --help` lists"),
    ],
)
def test_a_misspelt_command_line_is_one_line_too(cli, arguments, message):
    result = cli(*arguments)
    assert result.returncode == ExitCode.BAD_INPUT
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_without_a_command_there_is_help(cli):
    result = cli()
    assert result.returncode == ExitCode.BAD_INPUT
    assert "Publish and serve" in result.stdout + result.stderr


def test_plan_says_what_will_happen_and_starts_nothing(cli, tiny_run, tmp_path):
    before = sorted(path for path in tiny_run.rglob("*"))
    result = cli("plan", "--preset", "tiny", "--out", tiny_run, "--set", "rl.learning_rate=1e-4")
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "reuse" in rows["sft"]
    assert "rl.learning_rate" in rows["rl"]
    assert "GB" in rows["rl"]
    assert "48 to 72 calls" in rows["teachers"]
    assert sorted(path for path in tiny_run.rglob("*")) == before


def test_the_sweep_needs_only_saved_scores(cli, tiny_copy):
    result = cli("partition", tiny_copy, "--sweep")
    assert result.returncode == 0, result.stderr
    assert (tiny_copy / "theta-sweep.svg").read_text(encoding="utf-8").lstrip().startswith("<")
    fractions = [float(value) for value in re.findall(r"^\s*0\.9\b.*?(\d+\.\d+)", result.stdout, re.MULTILINE)]
    assert fractions


def test_the_partition_of_a_run_is_shown(cli, tiny_run):
    result = cli("partition", tiny_run)
    assert result.returncode == 0, result.stderr
    assert "jaccard" in result.stdout


def test_report_is_written_again_from_the_folder(cli, tiny_copy):
    (tiny_copy / "report.html").unlink()
    result = cli("report", tiny_copy)
    assert result.returncode == 0, result.stderr
    assert (tiny_copy / "report.html").is_file()


def test_doctor_names_what_is_there(cli):
    result = cli("doctor")
    assert result.returncode == 0, result.stdout
    for word in ("python", "torch", "accelerator", "number format", "sandbox", "hub", "model cache"):
        assert word in result.stdout


def test_a_stage_runs_alone_with_local_folders(cli, tiny_run, tmp_path):
    result = cli(
        "stage", "partition", "--preset", "tiny", "--set", "partition.theta=0.5",
        "--input", f"scores={tiny_run}/stages/score-system1/scores",
        "--input", f"scores={tiny_run}/stages/score-system2/scores",
        "--output", f"partition={tmp_path}/partition",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "partition" / "partition.safetensors").is_file()
    assert (tmp_path / "partition" / "manifest.json").is_file()


@pytest.mark.parametrize(("sent", "code"), [("SIGINT", ExitCode.INTERRUPTED), ("SIGTERM", ExitCode.TERMINATED)])
def test_any_command_that_is_stopped_says_so(start_cli, tmp_path, sent, code):
    process = start_cli("stage", "init", "--preset", "tiny", "--output", f"adapter={tmp_path}/adapter")
    wait_for_torch(process.pid)
    process.send_signal(getattr(signal, sent))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert errors.startswith("lorapar: ")
    assert len(errors.strip().splitlines()) == 1


def wait_for_torch(pid, seconds=120):
    """Wait until a process has mapped torch's library, so that it is past its own start."""
    end = time.monotonic() + seconds
    while "libtorch" not in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8"):
        assert time.monotonic() < end, "torch was not loaded"
        time.sleep(0.01)


def test_a_folder_that_cannot_be_made_is_one_line(cli, tmp_path):
    (tmp_path / "file").touch()
    result = cli("run", "--preset", "tiny", "--until", "plan", "--out", tmp_path / "file")
    assert result.returncode == ExitCode.STORAGE
    assert len(result.stderr.strip().splitlines()) == 1


def test_rewards_that_cannot_be_imported_and_nothing_held_out_are_refused_at_once(cli, tmp_path):
    for override, message in (
        ("rl.rewards={no_such_module:foo: 1}", "no_such_module:foo cannot be imported"),
        ("data={source: ./rows.jsonl, heldout: 0}", "data.heldout is 0"),
    ):
        result = cli("plan", "--preset", "tiny", "--set", override, "--out", tmp_path / "run")
        assert result.returncode == ExitCode.BAD_INPUT
        assert message in result.stderr


@pytest.mark.parametrize("option", ["--out", "--set=data.source"])
def test_a_name_that_no_file_system_takes_is_one_line(cli, tmp_path, option):
    name = str(tmp_path / ("r" * 256))
    result = cli("plan", "--preset", "tiny", *([f"{option}={name}"] if "=" in option else [option, name]))
    assert result.returncode == ExitCode.STORAGE
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"lorapar: {tmp_path}/rrr")
    assert "takes no name of that length" in line


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)]
)
def test_stopped_while_it_is_still_being_imported_it_says_so_without_a_traceback(sent, code):
    command = [sys.executable, "-X", "importtime", "-m", "lorapar", "presets"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "pydantic" in line:
            break
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("lorapar: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--preset", "tiny", "--set", "registry.address=s3://BUCKET/x"], 2, "'BUCKET' cannot name a bucket"),
        (["plan", "--preset", "tiny", "--set", "registry.address=s3://BUCKET/x"], 2, "'BUCKET' cannot name a bucket"),
        (["run", "--preset", "tiny", "--set", "registry.address=/proc/none"], 5, "/proc/none: cannot be made"),
        (["gc", "/proc/none", "--delete"], 2, "/proc/none: no such folder"),
    ],
)
def test_a_wrong_address_is_known_before_anything_starts(cli, tmp_path, arguments, code, message):
    if arguments[0] != "gc":
        arguments = [*arguments, "--out", str(tmp_path / "run")]
    result = cli(*arguments)
    assert result.returncode == code, result.stdout + result.stderr
    assert message in result.stderr
    assert "sft" not in result.stdout
    assert len(result.stderr.strip().splitlines()) == 1


def test_help_shows_every_command_in_one_panel() -> None:
    shown = [name for names in PANELS.values() for name in names]
    assert sorted(shown) == sorted(typer.main.get_command(app).commands)
    text = CliRunner().invoke(app, ["--help"]).output
    places = [text.index(f"─ {title} ─") for title in PANELS]
    assert places == sorted(places)
    assert "─ Commands ─" not in text


def test_each_command_is_in_the_file_that_is_imported_for_it() -> None:
    """A process that runs one command imports no other's."""
    script = """
import sys, typer
from lorapar.cli import application
for name, command in sorted(typer.main.get_command(application(sys.argv[1:])).commands.items()):
    print(name, *sorted(getattr(command, "commands", ())))
"""
    whole = typer.main.get_command(app).commands
    for names in FILES.values():
        ended = subprocess.run([sys.executable, "-c", script, names[0]], capture_output=True, text=True, check=True)
        known = dict(line.partition(" ")[::2] for line in ended.stdout.splitlines())
        for name in names:
            assert known[name].split() == sorted(getattr(whole[name], "commands", ())), name


def test_help_without_signatures_is_that_of_whole_commands(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["lorapar", "--help"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        lorapar.cli.main()
    assert capsys.readouterr().out == CliRunner().invoke(app, ["--help"], prog_name="lorapar").output
    assert "--preset" in CliRunner().invoke(app, ["run", "--help"]).output, "the application itself keeps its options"


def test_a_reader_who_has_gone_ends_a_command_without_a_word() -> None:
    """As after `| head -1`: typer and rich end with 1, which is the code of a bug."""
    command = subprocess.Popen(
        [sys.executable, "-m", "lorapar", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout is not None
    assert command.stderr is not None
    command.stdout.close()
    assert (command.stderr.read(), command.wait(60)) == (b"", ExitCode.UNREAD)
    command.stderr.close()


def test_a_stop_that_a_library_turned_into_its_own_error_is_a_stop(monkeypatch, capsys) -> None:
    """As transformers does with Ctrl-C while it imports."""

    def importing(**_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise ModuleNotFoundError("could not import module") from stop

    monkeypatch.setattr("lorapar.cli.application", lambda _: importing)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        lorapar.cli.main()
    assert end.value.code == ExitCode.INTERRUPTED
    assert capsys.readouterr().err.startswith("lorapar: interrupted; ")


def test_errors_that_are_each_others_cause_come_to_an_end(monkeypatch, capsys) -> None:
    def going_round(**_: object) -> None:
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        raise first

    monkeypatch.setattr("lorapar.cli.application", lambda _: going_round)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        lorapar.cli.main()
    assert end.value.code == ExitCode.BUG
    assert "ValueError: first" in capsys.readouterr().err
