"""Every client of lorapar, each as a function that asks an address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lorapar.errors import UnreachableError
from tests.network.servers import Anything


def ask_kubeflow(address: str) -> None:
    from lorapar.kubeflow.server import Server, Where

    Server(Where(address)).runs(None, 5)


def ask_model_registry(address: str) -> None:
    from lorapar.registry.model_registry_client import ModelRegistryClient

    with ModelRegistryClient(address) as client:
        client._found_root()


def ask_webhook(address: str) -> None:
    from lorapar.kubeflow.summary import RunSummary, post_summary

    post_summary(address + "/hook", "# page", RunSummary("r", "n", True, True, None, [], [], {}, []))


def ask_hub(address: str) -> None:
    from huggingface_hub import close_session, get_session

    from lorapar.basemodel.hub import hub_errors

    close_session()  # the library keeps one for the life of a process
    try:
        with pytest.MonkeyPatch.context() as patch, hub_errors("a/b", None, "model"):
            patch.setattr("huggingface_hub.constants.ENDPOINT", address)
            get_session().get(f"{address}/api/models/a/b").raise_for_status()
    finally:
        close_session()


def ask_store(address: str) -> None:
    from lorapar.store.s3_client import Connection
    from lorapar.store.s3_errors import s3_errors

    with pytest.MonkeyPatch.context() as patch, s3_errors("s3://bucket/key", address):
        patch.setenv("AWS_ENDPOINT_URL", address)
        client = Connection("s3://bucket").client
        client.get_object(Bucket="bucket", Key="key")


def ask_mlflow(address: str) -> None:
    """A tracker never ends a run, so that what is in the way is said and not raised."""
    from lorapar.tracking import Summary, TrackedRun, tracked

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", address)
        with tracked(["mlflow"], TrackedRun("a", "b", Path("unused")), said.append, Summary):
            pass
    if any(word in " ".join(said) for word in ("certificate", "proxy", "MaxRetryError", "Max retries")):
        raise UnreachableError(" ".join(said))


def ask_oci(address: str) -> None:
    from lorapar.registry.oci_client import OciClient, parse_oci_name

    with OciClient(parse_oci_name(f"{address}/a/b")) as client:
        client.find_manifest("latest")


def ask_teacher(address: str) -> None:
    """Its words are its own (tests/voting/test_endpoint_client.py), so it is asked only where it is let through."""
    import asyncio

    from lorapar.config import EndpointOptions
    from lorapar.voting.endpoint_client import EndpointClient, Login

    async def ask() -> None:
        options = EndpointOptions(attempts=1, timeout_seconds=10.0)
        client = EndpointClient(f"{address}/v1", options, Login(address, options, {}))
        try:
            await client.get("/models")
        finally:
            await client.close()

    asyncio.run(ask())


Ask = Callable[[str], None]
CLIENTS: dict[str, Ask] = {
    "mlflow": ask_mlflow,
    "oci": ask_oci,
    "kubeflow": ask_kubeflow,
    "model registry": ask_model_registry,
    "webhook": ask_webhook,
    "hub": ask_hub,
    "store": ask_store,
}


def assert_reached(ask: Ask, address: str) -> None:
    """The server itself has had the request, and its answer was taken."""
    before = len(Anything.asked)
    ask(address)
    assert len(Anything.asked) > before


every_client = pytest.mark.parametrize("ask", CLIENTS.values(), ids=CLIENTS)
who_is_let_through = pytest.mark.parametrize("ask", [*CLIENTS.values(), ask_teacher], ids=[*CLIENTS, "teacher"])
