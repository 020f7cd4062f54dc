"""NOTES.txt, which `helm template` leaves out: what it tells people to run is a command line that there is."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, EVERYTHING, NAMESPACE, RELEASE, helm, only, render
from tests.helm.test_commands import lorapar_problems

WRAPPED = """apiVersion: v1
kind: ConfigMap
metadata: {name: notes}
data:
  notes: |
    {{- include "notes" . | nindent 4 }}
"""


@pytest.fixture
def notes(tmp_path: Path):
    """A function from values to the notes, rendered by the real helm out of a copy of the chart that shows them."""
    chart = Path(shutil.copytree(CHART, tmp_path / "chart"))
    text = (chart / "templates" / "NOTES.txt").read_text(encoding="utf-8")
    (chart / "templates" / "NOTES.txt").unlink()
    (chart / "templates" / "_notes.tpl").write_text(
        '{{- define "notes" -}}\n' + text + "{{- end }}\n", encoding="utf-8"
    )
    (chart / "templates" / "notes.yaml").write_text(WRAPPED, encoding="utf-8")

    def shown(values: dict[str, Any]) -> str:
        done = helm("template", RELEASE, chart, "--namespace", NAMESPACE, "-s", "templates/notes.yaml", values=values)
        assert done.code == 0, done.error
        return str(yaml.safe_load(done.out)["data"]["notes"])

    return shown


def submit_words(notes: str) -> list[str]:
    (line,) = [line for line in notes.splitlines() if line.strip().startswith("lorapar submit ")]
    return shlex.split(line)[1:]


@pytest.mark.parametrize("values", [{}, EVERYTHING, {"objectStore": {"registry": "s3://other/registry"}}])
def test_the_run_that_the_notes_start_has_the_release_s_images_store_and_placement(notes, values) -> None:
    words = submit_words(notes(values))
    assert not lorapar_problems(words)
    assert "--image" not in words, "the uploaded version names them"
    assert words[words.index("--placement") + 1] == "placement.yaml"
    assert words[words.index("--store") + 1] == "s3://lorapar"
    assert ("--namespace" in words) is ("pipeline" in values)
    assert ("registry=s3://other/registry" in words) is ("registry" in values.get("objectStore", {}))


def test_without_an_upload_the_notes_name_the_images_that_the_hook_would(notes) -> None:
    words = submit_words(notes({"pipeline": {"upload": {"enabled": False}}}))
    assert not lorapar_problems(words)
    upload = only(render(), "Job", "-upload")["spec"]["template"]["spec"]["initContainers"][0]
    hook_images = [argument.removeprefix("--image=") for argument in upload["args"] if argument.startswith("--image=")]
    assert [words[place + 1] for place, word in enumerate(words) if word == "--image"] == hook_images
    assert len(hook_images) == 3


def test_an_address_of_the_cluster_s_own_comes_with_the_way_to_it_from_elsewhere(notes) -> None:
    said = notes({"pipeline": {"kfp": {"namespace": "kf", "endpoint": "http://ml-pipeline.kf:8888"}}})
    assert "kubectl --namespace kf port-forward svc/ml-pipeline 8888" in said
    assert "port-forward svc/ml-pipeline" not in notes(
        {"pipeline": {"kfp": {"endpoint": "https://kf.example/pipeline"}}}
    )


def test_the_placement_is_where_the_notes_fetch_it(notes) -> None:
    (line,) = [line for line in notes({}).splitlines() if "get configmap" in line]
    words = shlex.split(line)
    data = only(render(), "ConfigMap", words[words.index("configmap") + 1].removeprefix(RELEASE))["data"]
    assert "jsonpath={.data.placement\\.yaml}" in words
    assert "placement.yaml" in data
    assert "get configmap" not in notes({"pipeline": {"upload": {"enabled": False}}})


def test_the_notes_name_the_images_that_a_moved_tag_could_change(notes) -> None:
    digest = "sha256:" + "a" * 64
    message = notes({"images": {"trainer": {"digest": digest}}})
    assert "set images.client.digest, images.vllm.digest." in message
    pinned = {image: {"digest": digest} for image in ("client", "trainer", "vllm")}
    assert "can be moved" not in notes({"images": pinned})


def test_the_notes_give_the_one_change_that_makes_argo_retry_a_stopped_pod(notes) -> None:
    message = notes({})
    assert "workflow-controller-configmap" in message
    assert "spec.templateDefaults.retryStrategy.retryPolicy: Always" in message
    assert "retryPolicy" not in notes({"pipeline": {"enabled": False}})


def test_the_servers_that_sample_for_rl_are_told_from_those_that_vote_alone(notes) -> None:
    servers = [{"name": "voter", "model": "a/b"}, {"name": "both", "model": "a/b", "rolloutRank": 8}]
    lines = notes({"teachers": {"enabled": True, "models": servers}}).splitlines()
    (voter, both) = [line for line in lines if "/v1   model " in line]
    assert voter.endswith("model voter")
    assert both.endswith("model both, and for rl.rollouts server (rl.server.endpoint)")


def test_the_notes_warn_of_a_namespace_where_a_standalone_kubeflow_starts_no_pods(notes) -> None:
    assert "starts the pods of runs in kubeflow, where this release's" in notes({})
    for kfp in ({"namespace": NAMESPACE}, {"multiUser": True}):
        assert "WRONG NAMESPACE" not in notes({"pipeline": {"kfp": kfp}})
    assert "WRONG NAMESPACE" not in notes({"pipeline": {"enabled": False}})
