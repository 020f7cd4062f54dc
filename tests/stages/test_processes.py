"""Stages in several processes make what one makes, end as one ends whatever happens, and go on with any number."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorapar.adapter import load_scores
from lorapar.checkpoint import Keeper
from lorapar.config import CheckpointConfig, RlConfig, SftConfig
from lorapar.errors import BadInputError, ExitCode, StorageError, Terminated, TrainingError, UnreachableError
from lorapar.progress import Silent
from lorapar.stages import nodes, processes, score
from lorapar.stages.contract import Origin, StageCall
from lorapar.stages.nodes import VARIABLES, Nodes
from lorapar.stages.process_endings import LostNodesError, Machine, concluded, outcomes
from lorapar.stopping import StopRequest
from lorapar.store import ObjectStore, open_store, seal
from lorapar.tracking import Tracking
from tests.integration.s3_server import free_ports

# The second process dies once it has answered twice.
KILLS = """
import os, signal

if os.environ.get("RANK") == "1":
    from lorapar.evaluation.answer_journal import AnswerJournal

    add, added = AnswerJournal.add, []

    def add_twice(self, answered):
        add(self, answered)
        added.append(answered)
        if len(added) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    AnswerJournal.add = add_twice
"""
SCORE = {"model": {"name": "builtin:tiny", "dtype": "float32"}, "prompts": {}, "seed": 3, "system": "system2"}
EVALUATE = {**SCORE, "evaluate": {"batch_size": 2, "max_new_tokens": 6}}
del EVALUATE["system"]


@pytest.fixture(scope="module")
def shared_calls(kit, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Calls of score, whole and stopped, and of evaluate, with a benchmark."""
    root = tmp_path_factory.mktemp("calls")
    rows = [row.model_copy(update={"question": row.question + " so" * (n % 5)}) for n, row in enumerate(kit.sums(11))]
    score = {
        "stage": "score",
        "settings": {**SCORE, "score": {"examples": 11, "batch_size": 2}},
        "inputs": {"adapter": [str(adapter)], "rows": [str(kit.rows_folder(root / "rows", rows))]},
    }
    heldout = root / "heldout"
    kit.rows_folder(heldout, kit.words(5, "heldout"), "system1.jsonl")
    (heldout / "manifest.json").unlink()
    kit.rows_folder(heldout, kit.sums(6, "heldout"), "system2.jsonl")
    (root / "incumbent").mkdir()
    seal(root / "incumbent", "publish.incumbent")
    inputs = {"heldout": heldout, "after_sft": adapter, "published": adapter, "incumbent": root / "incumbent"}
    benchmark = root / "gsm8k.jsonl"
    questions = [{"question": f"{n}+1?", "answer": f"#### {n + 1}"} for n in range(5)]
    benchmark.write_text("".join(json.dumps(one) + "\n" for one in questions))
    asked = {"task": "gsm8k", "data": str(benchmark), "max_new_tokens": 4}
    settings = {**EVALUATE, "evaluate": {**EVALUATE["evaluate"], "benchmarks": [asked]}}
    evaluate = {
        "stage": "evaluate",
        "settings": settings,
        "inputs": {name: [str(path)] for name, path in inputs.items()},
    }
    return [{"name": "score", **score}, {"name": "stopped", "stop_after": 1, **score}, {"name": "evaluate", **evaluate}]


@pytest.fixture(scope="module")
def shared(shared_calls: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two and three processes make of them."""
    root = tmp_path_factory.mktemp("shared")
    (root / "calls.json").write_text(json.dumps(shared_calls))
    command = [sys.executable, str(Path(__file__).with_name("stage_ranks.py")), str(root / "calls.json"), "2", "3"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return root


def alone(kit, call: dict[str, Any], out: Path) -> tuple[dict[str, float], Path]:
    inputs = {name: tuple(map(Path, paths)) for name, paths in call["inputs"].items()}
    return kit.run(call["stage"], out, call["settings"], inputs, kit.Notes(), processes=1)


def scores_of(folder: Path) -> dict[str, Any]:
    return load_scores(folder / "scores" / "scores.safetensors")[0]


def assert_same_scores(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """To 1e-6, of a score or, where one is a small difference of large terms, of the tensor's mean."""
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6 * float(tensor.mean()))


@pytest.mark.parametrize("count", [2, 3])
def test_scores_are_those_of_one_process(
    kit, shared: Path, shared_calls: list[dict[str, Any]], tmp_path: Path, count: int
) -> None:
    metrics, out = alone(kit, shared_calls[0], tmp_path)
    found, expected = scores_of(shared / str(count) / "score"), scores_of(out)
    assert_same_scores(found, expected)
    message = json.loads((shared / str(count) / "score" / "metrics.json").read_text())
    assert message["rows"] == metrics["rows"] == 11
    assert message["total_importance"] == pytest.approx(metrics["total_importance"], rel=1e-6)


def test_scoring_that_three_processes_began_goes_on_with_one(
    kit, shared: Path, shared_calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    stopped = shared / "3" / "stopped" / "scratch"
    assert score.newest_sums(stopped) == (6, 3)
    shutil.copytree(stopped, tmp_path / "scratch")
    (tmp_path / "scratch" / score.sums_name(10, 0, 3)).touch()  # the others' are missing
    notes = kit.Notes()
    call = shared_calls[1]
    inputs = {name: tuple(map(Path, paths)) for name, paths in call["inputs"].items()}
    kit.run("score", tmp_path, call["settings"], inputs, notes, processes=1)
    assert "going on after 6 rows that were scored before" in notes.lines
    assert_same_scores(scores_of(tmp_path), scores_of(shared / "3" / "score"))


@pytest.mark.parametrize("count", [2, 3])
def test_answers_are_those_of_one_process_in_the_same_order(
    kit, shared: Path, shared_calls: list[dict[str, Any]], tmp_path: Path, count: int
) -> None:
    found = (shared / str(count) / "evaluate" / "evaluation" / "answers.jsonl").read_text().splitlines()
    _, out = alone(kit, shared_calls[2], tmp_path)
    expected = (out / "evaluation" / "answers.jsonl").read_text().splitlines()
    assert [without_loss(line) for line in found] == [without_loss(line) for line in expected]
    assert len(found) == 3 * (11 + 5)
    losses = [[json.loads(line).get("loss") or 0.0 for line in lines] for lines in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    by_rank = [path.read_text().count("\n") for path in shared.glob(f"{count}/evaluate/scratch/**/answers.jsonl")]
    assert len(by_rank) == count
    assert max(by_rank) - min(by_rank) <= 3


def without_loss(line: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(line).items() if key != "loss"}


def test_a_process_that_is_killed_ends_all_and_the_next_run_goes_on_with_one(
    kit, shared: Path, shared_calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(KILLS)
    monkeypatch.syspath_prepend(tmp_path)
    call = shared_calls[2]
    settings = {**call["settings"], **EVALUATE}
    inputs = {name: tuple(map(Path, paths)) for name, paths in call["inputs"].items()}
    keeper = Keeper(CheckpointConfig(interval_seconds=0.0))
    notes = kit.Notes()
    shown = Origin(tracking=Tracking([]))  # has threads, which stay in this process
    with pytest.raises(TrainingError, match=r"process 1 was killed \(SIGKILL\)"):
        kit.run("evaluate", tmp_path, settings, inputs, notes, keeper=keeper, processes=2, origin=shown)
    assert "2 processes share the rows" in notes.lines
    assert (tmp_path / "scratch" / "rank-1" / "answers.jsonl").read_text().count("\n") == 2

    notes = kit.Notes()
    _, out = kit.run("evaluate", tmp_path, settings, inputs, notes, keeper=keeper, processes=1)
    assert any(line.startswith("going on after ") for line in notes.lines)
    found = (out / "evaluation" / "answers.jsonl").read_text().splitlines()
    expected = (shared / "2" / "evaluate" / "evaluation" / "answers.jsonl").read_text().splitlines()
    held_out = [line for line in expected if "benchmark" not in line]
    assert [without_loss(line) for line in found] == [without_loss(line) for line in held_out]


def test_sigterm_is_passed_on_once_to_every_process(tmp_path: Path) -> None:
    waits = "import signal, sys; signal.signal(15, lambda *_: sys.exit(9)); print(flush=True); signal.pause()"
    started = [subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE) for _ in range(2)]
    stop = StopRequest()
    listener = processes._Listener(tmp_path, stop, Silent(), Keeper(), None)
    for rank, process in enumerate(started):
        assert process.stdout is not None
        process.stdout.readline()
        (tmp_path / f"pid-{rank}").write_text(str(process.pid))
    listener.look()
    assert [process.poll() for process in started] == [None, None]
    stop.requested = True
    listener.look()
    assert [process.wait() for process in started] == [9, 9]
    listener.look()  # they are gone, and nobody else gets the signal


def _control(folder: Path, outcomes: dict[int, dict[str, Any]]) -> Path:
    for rank, outcome in outcomes.items():
        whole = {"exit_code": 0, "of_another": False, "message": "", "time": float(rank), **outcome}
        (folder / f"outcome-{rank}.json").write_text(json.dumps(whole))
    return folder


def failed(exit_code: int, seconds: int = 0) -> Any:
    """What torch's launcher says of a process."""
    return SimpleNamespace(exitcode=exit_code, timestamp=seconds)


def test_the_error_is_that_of_the_process_that_has_one(tmp_path: Path) -> None:
    lost = {"exit_code": ExitCode.BUG, "message": "RuntimeError: connection closed", "time": 0.0}
    control = _control(tmp_path, {0: lost, 1: {"exit_code": ExitCode.STORAGE, "message": "the disk is full"}})
    with pytest.raises(StorageError, match=r"^the disk is full$"):
        concluded([Machine(outcomes(control), {0: failed(1), 1: failed(5)})], StopRequest())


def test_a_failure_counts_more_than_being_asked_to_stop(tmp_path: Path) -> None:
    control = _control(tmp_path, {0: {"exit_code": ExitCode.TRAINING_FAILED, "message": "NaN"}, 1: {"exit_code": 143}})
    with pytest.raises(TrainingError, match="NaN"):
        concluded([Machine(outcomes(control), {0: failed(4), 1: failed(143)})], StopRequest(requested=True))


def test_what_the_launcher_killed_itself_is_not_the_reason(tmp_path: Path) -> None:
    control = _control(tmp_path, {0: {"exit_code": ExitCode.BUG, "message": "KeyError: 'seen'"}})
    with pytest.raises(RuntimeError, match="KeyError: 'seen'"):
        concluded([Machine(outcomes(control), {0: failed(1, 100), 1: failed(-9, 130)})], StopRequest())


def test_a_machine_that_is_gone_is_the_reason_unless_somebody_has_a_better_one(tmp_path: Path) -> None:
    lost = {"exit_code": ExitCode.BUG, "message": "RuntimeError: connection closed", "time": 0.0}
    with pytest.raises(LostNodesError, match="1 of the other nodes said nothing more"):
        concluded([Machine({0: lost}, {0: failed(1)})], StopRequest(), lost_nodes=1)
    full = {"exit_code": ExitCode.STORAGE, "message": "the disk is full", "time": 0.0, "of_another": False}
    with pytest.raises(StorageError, match="the disk is full"):
        concluded([Machine({0: lost}, {0: failed(1)}), Machine({2: full}, {2: failed(5)})], StopRequest(), lost_nodes=1)


def test_clocks_of_two_machines_are_not_compared() -> None:
    """The clock of the second machine is ten minutes behind: its processes seem to have failed long before."""
    here = {0: {"exit_code": ExitCode.BUG, "message": "RuntimeError: connection closed", "time": 1000.0}}
    there = {2: {"exit_code": ExitCode.BUG, "message": "RuntimeError: connection closed", "time": 400.0}}
    with pytest.raises(TrainingError, match=r"^process 1 was killed \(SIGKILL\)"):
        concluded(
            [Machine(here, {0: failed(1, 1001), 1: failed(-9, 1000)}), Machine(there, {2: failed(1, 401)})],
            StopRequest(),
        )
    with pytest.raises(TrainingError, match=r"^process 2 was killed \(SIGKILL\)"):
        concluded([Machine(here, {0: failed(1, 1001)}), Machine({}, {2: failed(-9, 1600)})], StopRequest())
    full = {"exit_code": ExitCode.STORAGE, "message": "the disk is full", "time": 1000.0, "of_another": False}
    late = {"exit_code": ExitCode.UNREACHABLE, "message": "no answer", "time": 400.0, "of_another": False}
    with pytest.raises(StorageError, match="the disk is full"):
        concluded([Machine({0: full}, {0: failed(5)}), Machine({2: late}, {2: failed(3)})], StopRequest())


def test_processes_that_wait_for_those_of_another_machine_in_vain_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_ASK_SECONDS", 0)
    monkeypatch.setattr(processes, "_VAIN_SECONDS", 0)
    over: list[bool] = []
    with subprocess.Popen(["sleep", "600"]) as waiting:
        (tmp_path / "pid-3").write_text(str(waiting.pid))
        with processes._listening(tmp_path, StopRequest(), Silent(), Keeper(), lambda: bool(over)) as listener:
            assert waiting.poll() is None
            over.append(True)
            assert waiting.wait(60) == -9
    assert listener.cut_off
    assert listener.of_own({3: failed(-9), 4: failed(1)}) == {4: failed(1)}


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> nodes.Crew:
    """The first of two machines."""
    monkeypatch.setattr(nodes, "LOST_SECONDS", 0.3)
    monkeypatch.setattr(nodes, "_BEAT_SECONDS", 0.02)
    monkeypatch.setattr(nodes, "_POLL_SECONDS", 0.01)
    return nodes.Crew(Nodes(0, 2, 1, "127.0.0.1", *free_ports(1)))


def second(crew: nodes.Crew, folder: Path, done: list[str], hangs: threading.Event | None = None) -> threading.Thread:
    """The other machine, which notes the meetings that it went to; it may hang in the first."""

    def start(message: Any, meeting: nodes.Meeting, is_over: nodes.IsOver) -> nodes.Document:
        done.append(meeting.run)
        if hangs:
            hangs.wait(60)
        return {"found": {}, "failures": {}}

    other = Nodes(1, 2, 1, crew.nodes.address, crew.nodes.port)
    thread = threading.Thread(target=nodes.serve, args=(other, folder, start), daemon=True)
    thread.start()
    return thread


def given(store: ObjectStore, folder: Path, meeting: str) -> tuple[StageCall[Any], dict[str, Any]]:
    """A call and how it is written for the other machine."""
    call: StageCall[Any] = StageCall(None, {}, {}, folder / "scratch", store=store)
    call.scratch.mkdir(exist_ok=True)
    return call, {"meeting": meeting, "outputs": {}, "store": store.address}


def test_a_machine_that_comes_late_is_waited_for_and_not_taken_for_gone(crew: nodes.Crew, tmp_path: Path) -> None:
    done: list[str] = []
    late = threading.Timer(3 * nodes.LOST_SECONDS, second, (crew, tmp_path / "second", done))
    late.start()
    crew.hand_out(*given(open_store(tmp_path / "store"), tmp_path, "first"), StopRequest())
    assert not crew.is_over()
    assert crew.answers() == {1: {"found": {}, "failures": {}}}
    assert done == ["first"]
    crew._end(0)


def test_a_pod_in_the_place_of_another_takes_part_from_the_next_call_on(crew: nodes.Crew, tmp_path: Path) -> None:
    """It would wait at a meeting that is over, while its heart beats for the one that is gone."""
    store, hangs = open_store(tmp_path / "store"), threading.Event()
    before: list[str] = []
    after: list[str] = []
    second(crew, tmp_path / "before", before, hangs)
    crew.hand_out(*given(store, tmp_path, "first"), StopRequest())
    while not before:
        time.sleep(0.01)
    assert not crew.is_over()
    second(crew, tmp_path / "after", after)
    while not crew.is_over():
        time.sleep(0.01)
    crew.hand_out(*given(store, tmp_path, "second"), StopRequest())
    assert crew.answers() == {1: {"found": {}, "failures": {}}}
    assert after == ["second"]
    hangs.set()
    crew._end(0)


def test_a_machine_that_never_comes_is_named_and_a_stop_ends_the_waiting(
    crew: nodes.Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = given(open_store(tmp_path / "store"), tmp_path, "first")
    with pytest.raises(Terminated):
        crew.hand_out(*call, StopRequest(requested=True))
    monkeypatch.setattr(nodes, "JOIN_SECONDS", 0)
    with pytest.raises(UnreachableError, match="node 1 of 2 has not come within 0 min"):
        crew.hand_out(*call, StopRequest())


def test_once_the_first_machine_is_gone_whatever_is_sent_to_it_says_so(crew: nodes.Crew) -> None:
    board = nodes.Board(Nodes(1, 2, 1, crew.nodes.address, crew.nodes.port))
    board.write("call/1", {})
    del crew._board._store
    with pytest.raises(nodes.FirstNodeGoneError, match="the first node is gone"):
        board.count("beats/1", 1)


@pytest.mark.parametrize(
    ("name", "value"), [("PET_NNODES", ""), ("PET_NODE_RANK", "2"), ("PET_NPROC_PER_NODE", "auto")]
)
def test_what_the_runtime_of_the_job_does_not_say_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for variable, message in zip(VARIABLES, ("2", "4", "1", "job-node-0-0.job", "29500"), strict=True):
        monkeypatch.setenv(variable, message)
    assert Nodes.of_environment() == Nodes(rank=1, count=2, processes=4, address="job-node-0-0.job", port=29500)
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInputError, match=name):
        Nodes.of_environment()


@pytest.mark.parametrize(
    ("gpus", "most", "config", "count"),
    [
        (0, None, SftConfig(), 1),
        (0, 2, SftConfig(), 2),
        (4, None, SftConfig(), 4),
        (4, 2, SftConfig(), 2),
        (2, 8, SftConfig(), 2),
        (8, None, RlConfig(batch_size=8, gradient_accumulation=4, num_generations=8), 4),
        (4, None, RlConfig(rollouts="vllm"), 1),
    ],
)
def test_one_process_a_gpu_as_far_as_set_and_dealt_evenly(
    kit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: int, most: int | None, config: Any, count: int
) -> None:
    monkeypatch.setattr("lorapar.training.shares.visible_gpus", lambda: gpus)
    notes = kit.Notes()
    call: StageCall[Any] = StageCall(
        settings=None, inputs={}, outputs={}, scratch=tmp_path, progress=notes, processes=most
    )
    assert processes.process_count(call, config) == count
    wanted = min(most or gpus or 1, gpus or 8)
    assert bool(notes.lines) == (count < wanted)
