"""Several machines that train together, each with some of the processes, as Kubeflow Trainer's torch runtime has them.

The first machine runs the stage. Whenever the stage trains, it hands what its processes are given to the others: the
inputs and the unfinished work by content through the store, the rest through a small store of torch's on this machine,
which torch's launcher meets at too. The others wait for that, start their processes, and tell how these ended.

PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT    torchrun's own variables, which
    Kubeflow Trainer 2 sets in every pod (2.3.0, pkg/runtime/framework/plugins/torch/torch.go)
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.errors import BadInputError, ExitCode, LoraparError, Terminated, UnreachableError
from lorapar.stopping import StopRequest
from lorapar.store import Manifest, ObjectStore, describe, fetch_tree, open_store, put_tree

if TYPE_CHECKING:
    from lorapar.stages.contract import StageCall

VARIABLES = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")
JOIN_SECONDS = 3600.0
"""How long a machine looks for the first one, whose image may still be pulled."""
ANSWER_SECONDS = 60.0
"""How long the first machine waits to be told how the processes of the others ended, once its own have."""
LOST_SECONDS = 10.0
"""A machine whose heart has not beaten for so long is gone."""
_BEAT_SECONDS = 1.0
_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 5
_KIND = "nodes.folder"


class FirstNodeGoneError(UnreachableError):
    """The first machine has ended without a word to this one, and knows why itself."""


Document = dict[str, Any]
"""How the processes of one machine ended: `found` and `failures`, by rank."""
IsOver = Callable[[], bool]
"""Whether the processes here wait in vain for those of another machine."""


@dataclass(frozen=True)
class Nodes:
    """This machine among those that train together."""

    rank: int
    count: int
    processes: int
    """Processes on each."""
    address: str
    """Of the first one."""
    port: int

    @classmethod
    def of_environment(cls) -> Nodes:
        """As torchrun's variables say; raises BadInputError naming the one that is missing or wrong."""
        values = {name: os.environ.get(name, "") for name in VARIABLES}
        for name, value in values.items():
            if not value or (name != "PET_MASTER_ADDR" and not value.isdigit()):
                raise BadInputError(
                    f"{name}: expected a number that Kubeflow Trainer's torch runtime sets, not '{value}'; the runtime "
                    "of the TrainJob must have `mlPolicy: torch` (such as torch-distributed)"
                )
        count, processes, rank, port = (int(values[name]) for name in VARIABLES if name != "PET_MASTER_ADDR")
        if not (0 <= rank < count and processes):
            raise BadInputError(f"PET_NODE_RANK is {rank} and PET_NNODES {count}: no such machine")
        return cls(rank, count, processes, values["PET_MASTER_ADDR"], port)


@dataclass(frozen=True)
class Meeting:
    """Where the launchers of all machines meet for one piece of training."""

    nodes: Nodes
    run: str
    """Unlike that of every other meeting: in one store, keys that begin with it are of this one."""


class Board:
    """What the machines tell each other, in a store of torch's on the first one."""

    def __init__(self, nodes: Nodes) -> None:
        """Open it on the first machine, or find it from another; raises UnreachableError."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # so torch documents it

        until = time.monotonic() + (0 if nodes.rank == 0 else JOIN_SECONDS)
        while True:
            try:
                self._store = TCPStore(
                    nodes.address,
                    nodes.port,
                    is_master=nodes.rank == 0,
                    timeout=timedelta(seconds=_CONNECT_SECONDS),
                    wait_for_workers=False,
                    multi_tenant=True,  # torch's launcher on the first machine meets the others at the same port
                )
                return
            except RuntimeError as error:
                if time.monotonic() > until:
                    where = f"{nodes.address}:{nodes.port}"
                    raise UnreachableError(
                        f"node {nodes.rank} cannot reach the first node at {where}: {error}"
                    ) from None
            time.sleep(_POLL_SECONDS)

    def write(self, key: str, value: Mapping[str, Any]) -> None:
        """Put a JSON object there; raises FirstNodeGoneError."""
        with _first_node():
            self._store.set(f"lorapar/{key}", json.dumps(value))

    def count(self, key: str, more: int = 0) -> int:
        """A number that begins with 0, after `more` was added to it; raises FirstNodeGoneError."""
        with _first_node():
            return int(self._store.add(f"lorapar/{key}", more))

    def call_is_over(self, number: int) -> bool:
        """Whether the first machine's processes of a call have failed, or it is gone."""
        try:
            return self.read(f"over/{number}", seconds=0) is not None
        except FirstNodeGoneError:
            return True

    def beat(self, rank: int) -> None:
        """Say from now on, as long as this process lives, that machine `rank` does."""

        def work() -> None:
            with suppress(FirstNodeGoneError):
                while True:
                    self.count(f"beats/{rank}", 1)
                    time.sleep(_BEAT_SECONDS)

        threading.Thread(target=work, name="heart", daemon=True).start()

    def read(
        self, *keys: str, seconds: float | None = None, alive: Callable[[], bool] = lambda: True
    ) -> tuple[str, Any] | None:
        """The first of these that is there, with its name; None where none is within the time, or nobody is `alive`.

        SIGTERM ends the wait. Raises FirstNodeGoneError.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            with _first_node():
                for key in keys:
                    if self._store.check([f"lorapar/{key}"]):
                        return key, json.loads(self._store.get(f"lorapar/{key}"))
            if (until is not None and time.monotonic() > until) or not alive():
                return None
            time.sleep(_POLL_SECONDS)


@contextmanager
def _first_node() -> Iterator[None]:
    """Torch's errors of a store that is gone as FirstNodeGoneError."""
    try:
        yield
    except RuntimeError as error:
        raise FirstNodeGoneError(f"the first node is gone ({str(error).splitlines()[0]})") from None


class _Heart:
    """Whether another machine that has come lives, as its beats say; asked again and again."""

    def __init__(self, board: Board, rank: int) -> None:
        self.rank = rank
        self._board, self._seen, self._since = board, -1, time.monotonic()
        self._arrivals = board.count(f"arrivals/{rank}")

    def alive(self) -> bool:
        """False once it has not beaten for LOST_SECONDS, or another pod has come in its place."""
        if (beats := self._board.count(f"beats/{self.rank}")) != self._seen:
            self._seen, self._since = beats, time.monotonic()
        replaced = self._board.count(f"arrivals/{self.rank}") != self._arrivals
        return not replaced and time.monotonic() - self._since < LOST_SECONDS


class Crew:
    """The machines that train together, as the first one has them."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self._board = Board(nodes)
        self._number = 0
        self._hearts: list[_Heart] = []

    @classmethod
    @contextmanager
    def assembled(cls, nodes: Nodes) -> Iterator[Crew]:
        """For one stage; at its end the others are told how it ended, and end too."""
        crew = cls(nodes)
        code = int(ExitCode.BUG)
        try:
            yield crew
            code = int(ExitCode.OK)
        except LoraparError as error:
            code = int(error.exit_code)
            raise
        except KeyboardInterrupt:
            code = int(ExitCode.TERMINATED)
            raise
        finally:
            crew._end(code)

    def hand_out(self, call: StageCall[Any], written: Mapping[str, Any], stop: StopRequest) -> Meeting:
        """Have the others start their processes of a call, `written` as its processes read it, where all meet.

        Raises UnreachableError where one of them does not come, Terminated where `stop` is requested meanwhile.
        """
        if call.store is None:
            raise BadInputError("several nodes need a store that all of them reach")
        self._wait_for_all(stop)
        self._number = self._board.count("calls", 1)
        self._hearts = [_Heart(self._board, rank) for rank in range(1, self.nodes.count)]
        inputs = {name: [_put(call.store, path) for path in paths] for name, paths in call.inputs.items()}
        document = {**written, "inputs": inputs, "scratch": _put(call.store, call.scratch)}
        self._board.write(f"call/{self._number}", document)
        return Meeting(self.nodes, document["meeting"])

    def _wait_for_all(self, stop: StopRequest) -> None:
        """Until every machine has beaten once: one whose image is still pulled is not gone."""
        until = time.monotonic() + JOIN_SECONDS
        for rank in range(1, self.nodes.count):
            while not self._board.count(f"beats/{rank}"):
                if stop.requested:
                    raise Terminated
                if time.monotonic() > until:
                    raise UnreachableError(
                        f"node {rank} of {self.nodes.count} has not come within {JOIN_SECONDS / 60:.0f} min; its pod "
                        "says why: kubectl get pods"
                    )
                time.sleep(_POLL_SECONDS)

    def is_over(self) -> bool:
        """Whether another machine's processes of this call have failed, or it is gone: those here may wait in vain."""
        for heart in self._hearts:
            answer = self._board.read(f"answer/{self._number}/{heart.rank}", seconds=0)
            if answer is not None and answer[1]["failures"]:
                return True
            if answer is None and not heart.alive():
                return True
        return False

    def announce_failure(self) -> None:
        """This machine's processes of the call have failed, so that those of the others wait in vain."""
        self._board.write(f"over/{self._number}", {})

    def answers(self) -> dict[int, Document]:
        """By machine how its processes ended; one that is gone says nothing."""
        until = time.monotonic() + ANSWER_SECONDS
        found: dict[int, Document] = {}
        for heart in self._hearts:
            left = max(0.0, until - time.monotonic())
            answer = self._board.read(f"answer/{self._number}/{heart.rank}", seconds=left, alive=heart.alive)
            if answer is not None:
                found[heart.rank] = answer[1]
        return found

    def _end(self, code: int) -> None:
        self._board.write("end", {"exit_code": code})
        for rank in range(1, self.nodes.count):  # the board goes with this process
            if self._board.read(f"left/{rank}", seconds=_CONNECT_SECONDS) is None:
                return


def serve(nodes: Nodes, folder: Path, start: Callable[[Document, Meeting, IsOver], Document]) -> int:
    """Do what the first machine hands out, until it ends; the exit code it ended with.

    Args:
        nodes: this machine and the others.
        folder: where inputs and unfinished work are put.
        start: starts this machine's processes of a call and says how they ended; told how to see that the first
            machine's have failed, or that it is gone.

    Raises FirstNodeGoneError, UnreachableError where the first machine was never there, and what the store raises.
    """
    board = Board(nodes)
    # A pod that comes in the place of another has no part in what was handed out before. Both are there before the
    # first beat, for which the first machine waits.
    number = board.count("calls")
    board.count(f"arrivals/{nodes.rank}", 1)
    board.beat(nodes.rank)
    while True:
        number += 1
        key, document = board.read(f"call/{number}", "end") or ("end", {})
        if key == "end":
            board.write(f"left/{nodes.rank}", {})
            return int(document.get("exit_code", ExitCode.BUG))
        store, place = open_store(document["store"]), folder / f"call-{number}"
        inputs = {
            name: [_fetch(store, one, place / "inputs" / f"{name}-{at}") for at, one in enumerate(given)]
            for name, given in document["inputs"].items()
        }
        outputs = {name: str(place / "outputs" / name) for name in document["outputs"]}
        scratch = _fetch(store, document["scratch"], place / "scratch")
        own = {
            **document,
            "inputs": inputs,
            "outputs": outputs,
            "scratch": scratch,
            "cache": None,
            "parent": os.getpid(),
        }
        answer = start(own, Meeting(nodes, document["meeting"]), partial(board.call_is_over, number))
        board.write(f"answer/{number}/{nodes.rank}", answer)


def meeting_store(run: str) -> Any:
    """Torch's store for the processes of one meeting, by the variables that its launcher sets.

    The store on the first machine serves all meetings, one after the other: what an earlier one left is no good.
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # so torch documents them

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return PrefixStore(run, TCPStore(address, port, is_master=False, wait_for_workers=False))


def _put(store: ObjectStore, folder: Path) -> dict[str, Any]:
    """A folder as it is now, but for hidden files, in the store; its manifest."""
    manifest = describe(folder, _KIND, lambda name: not name.startswith("."))
    put_tree(store, folder, manifest=manifest)
    return manifest.model_dump(mode="json")


def _fetch(store: ObjectStore, manifest: Any, folder: Path) -> str:
    fetch_tree(store, Manifest.model_validate(manifest), folder)
    return str(folder)
