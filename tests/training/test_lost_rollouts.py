"""A server of rollouts that is silent, gone or of no use to one process: how long it is waited for, and who is told."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lorapar import ranks
from lorapar.adapter import copy_adapter
from lorapar.config import RlConfig, RolloutServer, TeacherConfig
from lorapar.errors import BadInputError, ExitCode, LoraparError, StorageError, Terminated, UnreachableError
from lorapar.ranks import Ranks
from lorapar.stopping import finishing_steps
from lorapar.training import rollout_server, server_rollouts
from lorapar.training.own_rewards import RewardError
from lorapar.training.ranks import (
    KEPT,
    OtherRankError,
    OtherRankRefusedError,
    RolloutsLostError,
    RolloutsUnsentError,
    failing_together,
)
from lorapar.training.rollout_server import Probe, Server
from lorapar.training.server_rollouts import ServerRollouts
from lorapar.voting.endpoint_teacher import EndpointTeacher

RUN = "lorapar-00000001"


class Silent:
    """A server that accepts connections and never answers."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}/v1"

    def asked(self) -> int:
        """How many connections there were."""
        self.listening.setblocking(False)
        count = 0
        with suppress(BlockingIOError):
            while True:
                self.listening.accept()[0].close()
                count += 1
        return count


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.listening.close()


@pytest.fixture
def answering() -> Iterator[SimpleNamespace]:
    """A server that takes everything; `asked` is what it was asked, `seconds` how long an answer takes."""
    found = SimpleNamespace(asked=[], seconds=0.0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            found.asked.append(f"{self.command} {self.path.rpartition('/')[2]}")
            time.sleep(found.seconds)
            text = json.dumps({"data": [{"id": "base"}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    found.address = f"http://127.0.0.1:{http.server_port}/v1"
    yield found
    http.shutdown()
    http.server_close()


def settings(address: str, **openai: Any) -> RlConfig:
    server = {"endpoint": address, "openai": {"attempts": 1, **openai}, "wait_seconds": 0.01}
    return RlConfig(rollouts="server", server=server, max_completion_length=6)


def rollouts_of(job: Any, address: str, monkeypatch: pytest.MonkeyPatch, **openai: Any) -> ServerRollouts:
    """As at a step after the first one, of the adapter that training begins with."""

    def first_one(_: Any, folder: Path) -> None:
        folder.mkdir(parents=True)
        copy_adapter(job.adapter, folder)

    monkeypatch.setattr(server_rollouts, "save_adapter", first_one)
    config = settings(address, **openai)
    made = ServerRollouts(Server(config.server), config, job, RUN, "python -m vllm")
    made._compared = True
    return made


ASKINGS: dict[str, Callable[[ServerRollouts], Any]] = {
    "a step": lambda rollouts: rollouts.complete(None, 1, [[1, 2]], [0]),
    "completions": lambda rollouts: rollouts._all([{"prompt": [1]}], RUN, Path()),
    "a look": lambda rollouts: rollouts._patiently(rollouts._server.look),
}


@pytest.mark.parametrize("asking", ASKINGS)
def test_sigterm_ends_a_request_to_a_silent_server_and_asks_it_nothing_more(
    make_job, silent: Silent, monkeypatch, asking: str
) -> None:
    monkeypatch.setattr(rollout_server, "_GRACE_SECONDS", 0.2)
    rollouts = rollouts_of(make_job(), silent.address, monkeypatch, timeout_seconds=20)
    with finishing_steps() as stop:
        threading.Timer(0.3, setattr, (stop, "requested", True)).start()
        with pytest.raises(RolloutsLostError, match="had not answered when SIGTERM came") as told:
            ASKINGS[asking](rollouts)
    assert type(told.value).__name__ == "StoppedWaitingError"  # ends with 143, not 3
    assert silent.asked() == 1
    assert rollouts._left == ([f"{RUN}-1"] if asking == "a step" else [])


@pytest.mark.parametrize("asker", ["rollouts", "teacher"])
def test_a_name_that_nobody_looks_up_holds_up_neither_sigterm_nor_the_end_of_a_loop(monkeypatch, asker: str) -> None:
    """A resolver that hangs: threads of asyncio's own pool would be waited for."""
    found, asked = threading.Event(), threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        asked.set()
        found.wait(60)
        raise socket.gaierror("at last")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(rollout_server, "_GRACE_SECONDS", 0.1)
    server = Server(RolloutServer(endpoint="http://rollouts.invalid:8000/v1", openai={"attempts": 1}))
    begun = time.monotonic()
    try:
        if asker == "rollouts":
            with finishing_steps() as stop:
                stop.requested = True
                with pytest.raises(UnreachableError, match="had not answered when SIGTERM came"):
                    server.look()
        else:
            config = TeacherConfig(name="a", backend="openai", endpoint="http://votes.invalid:8000/v1", model="m")
            loop = EndpointTeacher(config, target="", role_play=False)._loop
            with suppress(TimeoutError):
                loop.run_until_complete(asyncio.wait_for(loop.getaddrinfo("votes.invalid", 80), 0.1))
            loop.close()
        assert asked.is_set()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio")]
        assert time.monotonic() < begun + 30
    finally:
        found.set()


def test_a_server_that_answers_soon_after_sigterm_is_listened_to(answering, monkeypatch) -> None:
    monkeypatch.setattr(rollout_server, "_GRACE_SECONDS", 60)
    answering.seconds = 0.5
    server = Server(RolloutServer(endpoint=answering.address, openai={"attempts": 1}))
    with finishing_steps() as stop:
        stop.requested = True
        assert server.look().base == "base"


def test_a_silent_server_is_given_two_seconds_to_forget_once_sigterm_has_come(make_job, silent, monkeypatch) -> None:
    monkeypatch.setattr(rollout_server, "_GRACE_SECONDS", 60)
    monkeypatch.setattr(rollout_server, "_BRIEF_SECONDS", 0.2)
    rollouts = rollouts_of(make_job(), silent.address, monkeypatch, timeout_seconds=20)
    begun = time.monotonic()
    with finishing_steps() as stop:
        stop.requested = True
        rollouts._forget("one")
    assert time.monotonic() < begun + 15
    assert rollouts._left == ["one"]


@pytest.mark.parametrize(("ends", "forgotten"), [(RolloutsLostError("gone"), True), (Terminated(), False)])
def test_what_a_failed_step_left_is_forgotten_once_its_state_is_kept_but_not_after_sigterm(
    make_job, answering, ends: BaseException, forgotten: bool
) -> None:
    def fail() -> None:
        with server_rollouts.server_rollouts(make_job(), settings(answering.address)) as rollouts:
            rollouts._left.append("lorapar-of-the-step")
            answering.asked.clear()
            raise ends

    with pytest.raises(type(ends)):
        fail()
    assert answering.asked == ["DELETE lorapar-of-the-step"] * forgotten


@pytest.mark.parametrize("control", ["look", "facts", "load", "unload"])
def test_what_is_no_completion_has_a_minute_and_not_that_of_completions(
    make_job, silent: Silent, monkeypatch, control: str
) -> None:
    assert rollout_server._CONTROL_SECONDS == 60
    monkeypatch.setattr(rollout_server, "_CONTROL_SECONDS", 0.2)
    server = Server(settings(silent.address, timeout_seconds=3).server)
    given = {"load": ("one", make_job().adapter), "unload": ("one",)}.get(control, ())
    with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s, after 1 try"):
        getattr(server, control)(*given)


def test_processes_wait_for_one_another_for_longer_than_one_waits_for_its_server() -> None:
    server = RolloutServer(endpoint="http://rollouts:8000")
    one = server.openai.attempts * (server.openai.timeout_seconds + server.openai.max_wait_seconds)
    assert ranks.LONGEST_WAIT.total_seconds() > 2 * one + server.wait_seconds
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    ranks._cpu_group.cache_clear()
    try:
        backend = ranks._cpu_group()._get_backend(torch.device("cpu"))
        assert backend.options._timeout == ranks.LONGEST_WAIT
    finally:
        ranks._cpu_group.cache_clear()
        dist.destroy_process_group()


def test_a_wait_that_is_shorter_than_a_look_is_none() -> None:
    lines: list[str] = []
    with pytest.raises(UnreachableError, match="no answer"):
        server_rollouts._Patience(1e-3, lines.append).wait(UnreachableError("no answer"))
    assert lines == []


@pytest.fixture
def agreed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The first of two processes: `others` are the other's flags, `own` what this one has told it."""
    found = SimpleNamespace(own=[], others=[False, False])

    def tell(_: Ranks, *flags: bool) -> list[bool]:
        found.own.append(flags)
        return [flag or other for flag, other in zip(flags, found.others, strict=False)]

    monkeypatch.setattr(Ranks, "any", tell)
    return found


KEEPS, REFUSES, NOTHING = [True, False], [True, True], [False, False]


@pytest.mark.parametrize(
    ("own", "others", "raised"),
    [
        (None, NOTHING, None),
        (None, KEEPS, OtherRankError),
        (None, REFUSES, OtherRankRefusedError),
        (RewardError("mine"), KEEPS, RewardError),
        (RewardError("mine"), REFUSES, OtherRankRefusedError),
        (BadInputError("mine"), KEEPS, BadInputError),
        (BadInputError("mine"), REFUSES, BadInputError),
    ],
)
def test_all_processes_keep_the_state_or_none_does(agreed, own: LoraparError | None, others, raised) -> None:
    agreed.others = others
    told = None
    try:
        with failing_together("it", (LoraparError,)):
            if own is not None:
                raise own
    except LoraparError as error:
        told = type(error)
    assert told is raised
    assert agreed.own == [(own is not None, own is not None and not isinstance(own, KEPT))]


@pytest.mark.parametrize(
    ("where", "error", "raised", "code"),
    [
        ("save", StorageError("cannot write it"), RolloutsUnsentError, ExitCode.STORAGE),
        ("load", OSError(28, "No space left on device"), RolloutsUnsentError, ExitCode.STORAGE),
        ("load", BadInputError("the key's file is empty"), RolloutsLostError, ExitCode.UNREACHABLE),
        ("complete", BadInputError("the key's file is empty"), RolloutsLostError, ExitCode.UNREACHABLE),
    ],
)
def test_whatever_fails_in_a_step_is_told_to_the_other_processes_and_keeps_the_state(
    make_job, answering, agreed, monkeypatch, where: str, error: Exception, raised, code
) -> None:
    rollouts = rollouts_of(make_job(), answering.address, monkeypatch)

    def fail(*_: Any) -> None:
        raise error

    if where == "save":
        monkeypatch.setattr(server_rollouts, "save_adapter", fail)
    else:
        monkeypatch.setattr(rollouts._server, where, fail)
    with pytest.raises(raised, match=str(error.args[-1])) as told:
        ASKINGS["a step"](rollouts)
    assert agreed.own[-1] == (True, False)
    assert told.value.exit_code == code
    assert isinstance(told.value, KEPT)


@pytest.mark.parametrize(("own", "raised"), [(-9.0, BadInputError), (-1.0, OtherRankRefusedError)])
def test_a_base_that_one_process_finds_to_be_another_ends_all(
    make_job, answering, agreed, monkeypatch, own: float, raised
) -> None:
    rollouts = rollouts_of(make_job(), answering.address, monkeypatch)
    monkeypatch.setattr(rollouts._server, "probe", lambda base, prompt: Probe([-1.0], True))

    def compute(*_: Any) -> list[float]:
        agreed.others = REFUSES if own == -1.0 else NOTHING
        return [own]

    monkeypatch.setattr(server_rollouts, "_base_log_probs", compute)
    with pytest.raises(raised):
        rollouts._compare(None, [1, 2])
    assert agreed.own[-1] == (own != -1.0, own != -1.0)


def test_a_setting_that_one_process_alone_lacks_ends_all(make_job, answering, agreed, monkeypatch) -> None:
    monkeypatch.delenv("KEY_OF_ROLLOUTS", raising=False)
    config = settings(answering.address, api_key_env="KEY_OF_ROLLOUTS")
    with (
        pytest.raises(BadInputError, match="KEY_OF_ROLLOUTS"),
        server_rollouts.server_rollouts(make_job(), config),
    ):
        pass
    assert agreed.own == [(True, True)]
