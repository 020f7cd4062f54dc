"""A stage in several processes of this machine, one a GPU, by torch's elastic launcher.

The process that is asked stays the one that a person or Kubernetes knows: it shows progress, keeps checkpoints, passes
SIGTERM on and ends with the error of the process that has one. torchrun would turn every exit code into 1, and kill
after 30 seconds what is still saving. Each process runs the stage again, with the call read from a file.

CONTROL/call.json           the stage, its settings and its folders
CONTROL/pid-<rank>          from here on a process takes SIGTERM
CONTROL/events.jsonl        what the first process reports: progress, and when its scratch folder is to be kept
CONTROL/due, kept-<n>       answers: a checkpoint is due; the n-th one is kept, or why it could not be
CONTROL/outcome-<rank>.json the metrics, or the error
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from lorapar.basemodel.spread import is_spread
from lorapar.checkpoint import Keeper
from lorapar.config import CheckpointConfig, RlConfig, SftConfig
from lorapar.errors import BadInputError, ExitCode, LoraparError, StorageError, Terminated
from lorapar.progress import Progress, Silent
from lorapar.records import read_json, write_json
from lorapar.stages.contract import Metrics, Origin, StageCall, run_stage, stage_spec
from lorapar.stages.nodes import Document, IsOver, Meeting, meeting_store
from lorapar.stages.process_endings import Failed, Machine, concluded, outcomes
from lorapar.stopping import StopRequest, finishing_steps, on_sigterm
from lorapar.store import open_store, write_atomically

_POLL_SECONDS = 0.05
_ASK_SECONDS = 1.0
"""How often other machines are asked whether they have failed."""
_VAIN_SECONDS = 15.0
"""What processes have to see for themselves that those of another machine are gone, and to say what went wrong."""
_WORK = dict.fromkeys(("sft", "rl"), "train together; each takes its part of every step")


def process_count(call: StageCall[Any], config: SftConfig | RlConfig) -> int:
    """In how many processes a call is to train: one a visible GPU, or as set, if a step can be divided among them."""
    from lorapar.ranks import Ranks
    from lorapar.training.shares import NOT_SHARDED, chosen_share, share_on_nodes, visible_gpus

    if Ranks.here().count > 1:
        return 1
    if call.crew is not None:
        nodes = call.crew.nodes
        if 0 < (visible := visible_gpus()) < nodes.processes:
            raise BadInputError(f"{nodes.processes} processes on each node, and this one has {visible} GPUs; see count")
        share, why = share_on_nodes(config, nodes.count, nodes.processes, call.processes)
    else:
        share, why = chosen_share(config, visible_gpus(), call.processes)
    if call.sharding == "fsdp2" and share.processes == 1:
        why = why or NOT_SHARDED
    if why is not None:
        call.progress.log(why)
    return share.processes


def parts_count(call: StageCall[Any], parts: int) -> int:
    """In how many processes a stage shares out so many parts of its work: one a visible GPU, or as set.

    One where the base fits no GPU, and its layers are on all of them.
    """
    from lorapar.ranks import Ranks
    from lorapar.training.shares import visible_gpus, wanted_processes

    if Ranks.here().count > 1:
        return 1
    gpus = visible_gpus()
    if gpus > 1 and is_spread(call.settings.model):
        call.progress.log(f"the base fits no GPU alone: its layers lie on {gpus}, and one process works with all")
        return 1
    return max(1, min(parts, wanted_processes(gpus, call.processes)))


def run_in_processes(stage: str, call: StageCall[Any], count: int) -> Metrics:
    """Run a stage in `count` processes, of which the first writes; returns its metrics.

    Raises the LoraparError of the process that has one, Terminated once all have saved after a SIGTERM, TrainingError
    where one was killed.
    """
    crew = call.crew if stage in _WORK else None
    nodes = "" if crew is None else f" on {crew.nodes.count} nodes"
    call.progress.log(f"{count} processes{nodes} {_WORK.get(stage, 'share the rows')}")
    with tempfile.TemporaryDirectory(prefix="lorapar-") as folder, finishing_steps() as stop:
        control = Path(folder)
        written = _written(stage, call, count)
        write_json(control / "call.json", written)
        meeting = None if crew is None else crew.hand_out(call, written, stop)
        with _listening(control, stop, call.progress, call.keeper, None if crew is None else crew.is_over) as listener:
            failures = listener.of_own(_launched(control, count, meeting))
        machines, lost = [Machine(outcomes(control), failures)], 0
        if crew is not None:
            if failures or listener.cut_off:
                crew.announce_failure()
            answers = crew.answers()
            lost = crew.nodes.count - 1 - len(answers)
            machines += [_machine(document) for _, document in sorted(answers.items())]
        return concluded(machines, stop, lost)


def _machine(document: Document) -> Machine:
    """How the processes of another machine ended, as it has said through JSON."""
    return Machine(
        {int(rank): one for rank, one in document["found"].items()},
        {int(rank): Failed(*one) for rank, one in document["failures"].items()},
    )


def join(call: Document, meeting: Meeting, is_over: IsOver) -> Document:
    """Start this machine's processes of a call that the first machine has handed out; how they ended."""
    with tempfile.TemporaryDirectory(prefix="lorapar-") as folder, finishing_steps() as stop:
        control = Path(folder)
        write_json(control / "call.json", call)
        with _listening(control, stop, Silent(), Keeper(), is_over) as listener:  # the first one tells, and keeps
            failures = listener.of_own(_launched(control, call["count"], meeting))
        ended = {rank: (one.exitcode, one.timestamp) for rank, one in failures.items()}
        return {"found": outcomes(control), "failures": ended}


def _written(stage: str, call: StageCall[Any], count: int) -> dict[str, Any]:
    return {
        "stage": stage,
        "count": count,
        "meeting": uuid.uuid4().hex,
        "settings": call.settings.model_dump(mode="json"),
        "inputs": {name: [str(path.absolute()) for path in paths] for name, paths in call.inputs.items()},
        "outputs": {name: str(path.absolute()) for name, path in call.outputs.items()},
        "scratch": str(call.scratch.absolute()),
        "checkpoint": call.keeper.config.model_dump(mode="json"),
        # A tracker's threads are here: it gets the whole curve at the end, as that of a stage that was reused.
        "origin": asdict(replace(call.origin, images=dict(call.origin.images), tracking=None)),
        "cache": None if call.cache is None else str(call.cache.absolute()),
        "anew": call.anew,
        "sharding": call.sharding,
        "store": None if call.store is None else call.store.address,
        "parent": os.getpid(),
    }


def _read(control: Path, rank: int) -> tuple[str, StageCall[Any]]:
    """The stage and the call of one process; all but the first make their outputs for nobody."""
    given = read_json(control / "call.json")
    outputs = {name: Path(path) for name, path in given["outputs"].items()}
    if rank:
        outputs = {name: control / f"rank-{rank}" / name for name in outputs}
        for path in outputs.values():
            path.mkdir(parents=True)
    checkpoint = CheckpointConfig.model_validate(given["checkpoint"])
    call: StageCall[Any] = StageCall(
        settings=stage_spec(given["stage"]).settings.model_validate(given["settings"]),
        inputs={name: tuple(map(Path, paths)) for name, paths in given["inputs"].items()},
        outputs=outputs,
        scratch=Path(given["scratch"]),
        progress=Silent() if rank else _Teller(control),
        keeper=Keeper(checkpoint) if rank else _AskingKeeper(control, checkpoint),
        origin=Origin(**given["origin"]),
        cache=Path(given["cache"]) if given["cache"] else None,
        anew=given["anew"],
        sharding=given["sharding"],
        store=open_store(given["store"]) if given["store"] else None,
    )
    return given["stage"], call


# What the process that was asked does.


def _launched(control: Path, count: int, meeting: Meeting | None) -> Mapping[int, Any]:
    """Start this machine's processes of `count` and wait for all; by rank torch's ProcessFailure of those that failed.

    The machines of a meeting have as many each, and the first machine's are the first.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    own = count
    where: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "127.0.0.1"}
    where |= {"min_nodes": 1, "max_nodes": 1, "run_id": uuid.uuid4().hex}
    if meeting is not None:
        nodes = meeting.nodes
        own = count // nodes.count
        where = {"rdzv_backend": "static", "rdzv_endpoint": f"{nodes.address}:{nodes.port}", "run_id": meeting.run}
        where |= {"min_nodes": nodes.count, "max_nodes": nodes.count, "rdzv_configs": {"rank": nodes.rank}}
    config = LaunchConfig(
        **where,
        nproc_per_node=own,
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(control / "logs")),
        signals_to_handle="SIGINT",  # SIGTERM is passed on, so that a process that finishes a step has the time for it
        virtual_local_rank=torch.cuda.is_available(),  # each process sees its own GPU, and no other
    )
    with _surroundings(own):
        try:
            # -P and PYTHONPATH: what can be imported here can be imported there, and nothing else.
            elastic_launch(config, sys.executable)("-P", "-m", __name__, str(control))
        except ChildFailedError as error:
            return dict(error.failures)
        except SignalException:
            raise KeyboardInterrupt from None
    return {}


@contextmanager
def _surroundings(count: int) -> Iterator[None]:
    """Variables that the processes inherit, and what the launcher changes in this one and does not put back."""
    import torch

    given = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count))),
    }
    before = {name: os.environ.get(name) for name in (*given, "TORCHELASTIC_SIGNALS_TO_HANDLE")}
    interrupt = signal.getsignal(signal.SIGINT)
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    os.environ.update(given)
    logger.setLevel(logging.CRITICAL)  # it tells which process failed, and so do we
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)


@contextmanager
def _listening(
    control: Path, stop: StopRequest, progress: Progress, keeper: Keeper, is_over: IsOver | None = None
) -> Iterator[_Listener]:
    """While the block lasts, show what the first process tells, keep its checkpoints, and pass SIGTERM on.

    Once processes of another machine have failed (`is_over`), those here are ended, if they do not end themselves.
    """
    listener, done = _Listener(control, stop, progress, keeper, is_over), threading.Event()

    def listen() -> None:
        while not done.wait(_POLL_SECONDS):
            listener.look()

    thread = threading.Thread(target=listen, name="processes", daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        done.set()
        thread.join()
        listener.look()


class _Listener:
    """Reads what the processes write."""

    def __init__(
        self, control: Path, stop: StopRequest, progress: Progress, keeper: Keeper, is_over: IsOver | None
    ) -> None:
        self._control, self._progress, self._keeper, self._stop = control, progress, keeper, stop
        self._place, self._signalled = 0, set[Path]()
        self._is_over, self._asked, self._over_since = is_over, time.monotonic(), 0.0
        self.cut_off = False
        """Whether the processes here were killed because they waited for those of another machine."""

    def of_own(self, failures: Mapping[int, Any]) -> dict[int, Any]:
        """The failures that are not of this listener's making."""
        return {rank: one for rank, one in failures.items() if not (self.cut_off and one.exitcode == -signal.SIGKILL)}

    def look(self) -> None:
        """What is new since the last look."""
        if self._is_over is not None and time.monotonic() > self._asked + _ASK_SECONDS and not self.cut_off:
            self._end_in_vain(self._is_over)
        if self._stop.requested:
            for path in set(self._control.glob("pid-*")) - self._signalled:
                self._signalled.add(path)
                with suppress(ProcessLookupError):
                    os.kill(int(path.read_text()), signal.SIGTERM)
        if self._keeper.due():
            (self._control / "due").touch()
        for line in self._new_lines():
            self._handle(json.loads(line))

    def _end_in_vain(self, is_over: IsOver) -> None:
        """Kill processes that still wait some time after those of another machine have failed."""
        self._asked = time.monotonic()
        if not is_over():
            self._over_since = 0.0
        elif not self._over_since:
            self._over_since = self._asked
        elif self._asked > self._over_since + _VAIN_SECONDS:
            for path in self._control.glob("pid-*"):
                with suppress(ProcessLookupError):
                    os.kill(int(path.read_text()), signal.SIGKILL)
                    self.cut_off = True

    def _new_lines(self) -> list[bytes]:
        events = self._control / "events.jsonl"
        if not events.is_file():
            return []
        with events.open("rb") as file:
            file.seek(self._place)
            whole = file.read().rpartition(b"\n")[0]
        self._place += len(whole) + 1 if whole else 0
        return whole.splitlines()

    def _handle(self, event: Mapping[str, Any]) -> None:
        match event["what"]:
            case "start":
                self._progress.start(event["title"], event["total"])
            case "advance":
                self._progress.advance(event["units"], event["note"])
            case "log":
                self._progress.log(event["line"])
            case "keep":
                problem = ""
                try:
                    self._keeper.keep()
                except (LoraparError, OSError) as error:
                    problem = str(error) or type(error).__name__
                (self._control / "due").unlink(missing_ok=True)
                write_atomically(self._control / f"kept-{event['number']}", problem)


# What each of the processes does.


class _Teller(Progress):
    """A Progress that writes down what it is told, for the process that was asked."""

    def __init__(self, control: Path) -> None:
        self._file = (control / "events.jsonl").open("a", encoding="utf-8")

    def _send(self, what: str, **values: Any) -> None:
        self._file.write(json.dumps({"what": what, **values}) + "\n")
        self._file.flush()

    def start(self, title: str, total: int | None = None) -> None:
        self._send("start", title=title, total=total)

    def advance(self, units: int = 1, note: str = "") -> None:
        self._send("advance", units=units, note=note)

    def log(self, line: str) -> None:
        self._send("log", line=line)

    def keep(self, number: int) -> None:
        """The scratch folder is whole, and stays so until the answer."""
        self._send("keep", number=number)


class _AskingKeeper(Keeper):
    """A keeper that leaves it to the process that was asked when to keep, and does the keeping there."""

    def __init__(self, control: Path, config: CheckpointConfig) -> None:
        super().__init__(config)
        self._control, self._teller, self._number = control, _Teller(control), 0

    def due(self) -> bool:
        """As the other process says; after every step where that is wanted."""
        return self.config.interval_seconds == 0 or (self._control / "due").exists()

    def keep(self) -> None:
        """Return once the other process has noted the files as they are; raises StorageError where it could not."""
        super().keep()
        self._number += 1
        self._teller.keep(self._number)
        answer = self._control / f"kept-{self._number}"
        while not answer.exists():
            time.sleep(_POLL_SECONDS)
        if problem := answer.read_text(encoding="utf-8"):
            raise StorageError(problem)


def main() -> NoReturn:
    """Run the stage of the call in the folder given, as the process that the launcher's variables say."""
    import lorapar.held_back  # noqa: F401

    control, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    signal.signal(signal.SIGTERM, on_sigterm)
    outcome: dict[str, Any] = {"exit_code": ExitCode.OK, "of_another": False, "message": ""}
    try:
        (control / f"pid-{rank}").write_text(str(os.getpid()))
        _end_with(read_json(control / "call.json")["parent"])
        outcome["metrics"] = _work(control, rank)
    except LoraparError as error:
        outcome |= {"exit_code": error.exit_code, "message": str(error)}
        outcome["of_another"] = type(error).__name__ in ("OtherRankError", "OtherRankRefusedError")
    except Terminated:
        outcome["exit_code"] = ExitCode.TERMINATED
    except KeyboardInterrupt:
        outcome["exit_code"] = ExitCode.INTERRUPTED
    except BaseException:
        outcome |= {"exit_code": ExitCode.BUG, "message": traceback.format_exc()}
    with suppress(OSError):
        write_json(control / f"outcome-{rank}.json", {**outcome, "time": time.time()})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(outcome["exit_code"]))  # threads of the process group may wait for a process that is gone


def _work(control: Path, rank: int) -> Metrics:
    import torch
    import torch.distributed as dist

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:
        dist.init_process_group(backend)
    else:
        store = meeting_store(read_json(control / "call.json")["meeting"])
        dist.init_process_group(backend, store=store, rank=rank, world_size=int(os.environ["WORLD_SIZE"]))
    stage, call = _read(control, rank)
    metrics = run_stage(stage, call)
    dist.barrier()
    return metrics


def _end_with(parent: int) -> None:
    """Be gone once the process that was asked is: nobody would wait for this one, or end it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    main()
