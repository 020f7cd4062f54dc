"""The pipeline that the wheel ships: its edges, its parameters, what Kubernetes is told, what KFP's cache sees."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes_pb
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

from lorapar.kubeflow.images import image_of, stage_reference
from lorapar.kubeflow.parameters import PARAMETERS
from lorapar.kubeflow.ports import node_ports, output_port, settings_parameter
from lorapar.stages.contract import STAGE_NAMES, stage_spec
from lorapar.stages.graph import GRAPH
from pipelines.compile import PACKAGE, package_text

FROZEN = Path(__file__).resolve().parents[1] / "frozen" / "pipeline.txt"
GPU_STAGES = {"vote", "score", "sft", "rl", "evaluate"}


@pytest.fixture(scope="module")
def package() -> tuple[dict[str, Any], dict[str, Any]]:
    """The shipped package: what runs, and how Kubernetes runs it."""
    spec, platform = yaml.safe_load_all(PACKAGE.read_text(encoding="utf-8"))
    return spec, platform


def test_the_shipped_package_is_what_the_sources_compile_to() -> None:
    assert PACKAGE.read_text(encoding="utf-8") == package_text(), "run `make pipeline`"


def as_read(value: dict[str, Any], message: Any) -> dict[str, Any]:
    """What is left of a value in one of KFP's types; raises ParseError for a field that the type does not have."""
    return json_format.MessageToDict(json_format.ParseDict(value, message, ignore_unknown_fields=False))


def test_kfp_reads_all_of_the_package(package) -> None:
    spec, platform = package
    assert as_read(spec, pb.PipelineSpec()) == spec
    for executor in executors(platform["platforms"]["kubernetes"]).values():
        assert as_read(executor, kubernetes_pb.KubernetesExecutorConfig()) == executor


def executors(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["deploymentSpec"]["executors"]


def stage_of(spec: dict[str, Any], label: str) -> str:
    return executors(spec)[label]["container"]["command"][-1]


class Edges:
    """(node, port, node that made it, output) of every container task, nested pipelines looked through."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.found: set[tuple[str, str, str, str]] = set()
        self.outputs: dict[tuple[str, str], tuple[str, str]] = {}
        self.settings: dict[str, str] = {}
        self._walk(spec["root"], {}, {}, "")

    def _walk(self, component: dict[str, Any], artifacts: dict, parameters: dict, inside: str) -> dict[str, Any]:
        """`artifacts` and `parameters`: where the component's own inputs come from; returns where its outputs do."""
        made: dict[tuple[str, str], Any] = {}
        tasks = component["dag"]["tasks"]
        for name in ordered(tasks):
            task = tasks[name]
            shown = task["taskInfo"]["name"]
            given = {
                port: self._source(source, artifacts, made, "Artifact")
                for port, source in task.get("inputs", {}).get("artifacts", {}).items()
            }
            values = {
                port: self._source(source, parameters, made, "Parameter")
                for port, source in task.get("inputs", {}).get("parameters", {}).items()
            }
            inner = self.spec["components"][task["componentRef"]["name"]]
            if "dag" in inner:
                found = self._walk(inner, given, values, shown if inside in ("", "run", "lorapar-stages") else inside)
                made |= {(name, key): value for key, value in found.items()}
                continue
            node = inside if shown.startswith("vote") else shown
            self.settings[node] = values.get("settings", ("", ""))[1]
            self.found |= {(node, port, *source) for port, source in given.items()}
            for kind in ("artifacts", "parameters"):
                for key in inner.get("outputDefinitions", {}).get(kind, {}):
                    made[(name, key)] = (node, key)
        return self._outputs(component, made)

    def _outputs(self, component: dict[str, Any], made: dict) -> dict[str, Any]:
        found = {}
        outputs = component["dag"].get("outputs", {})
        for key, value in outputs.get("artifacts", {}).items():
            (one,) = value["artifactSelectors"]
            found[key] = made[(one["producerSubtask"], one["outputArtifactKey"])]
        for key, value in outputs.get("parameters", {}).items():
            one = value["valueFromParameter"]
            found[key] = made[(one["producerSubtask"], one["outputParameterKey"])]
        return found

    def _source(self, source: dict[str, Any], own: dict, made: dict, kind: str) -> Any:
        if f"componentInput{kind}" in source:
            return own.get(source[f"componentInput{kind}"], ("", ""))
        if f"taskOutput{kind}" in source:
            output = source[f"taskOutput{kind}"]
            return made[(output["producerTask"], output[f"output{kind}Key"])]
        return ("", str(source.get("runtimeValue", "")))


def ordered(tasks: dict[str, Any]) -> list[str]:
    """Tasks after those they depend on."""
    done: list[str] = []
    while len(done) < len(tasks):
        ready = [name for name in tasks if name not in done and set(tasks[name].get("dependentTasks", ())) <= set(done)]
        done += ready
    return done


def test_the_pipeline_has_the_edges_of_the_local_runner(package) -> None:
    stage = {node.name: node.stage for node in GRAPH}
    expected = {
        (node.name, port.name, edge.node, output_port(stage[edge.node], edge.output))
        for node in GRAPH
        # The exit task is given no outputs: it finds them by the same edges in the store (test_reporting.py).
        if node.stage != "report"
        for port, edge in node_ports(node)
    }
    assert Edges(package[0]).found == expected


def test_every_task_gets_its_own_settings(package) -> None:
    settings = Edges(package[0]).settings
    for node in GRAPH:
        if node.stage not in ("plan", "report", "vote"):
            assert settings[node.name] == settings_parameter(node.name)
    assert {settings["vote-first"], settings["vote-rest"]} <= {"", "vote_first_settings", "vote_rest_settings"}


def test_every_input_artifact_comes_with_its_digest(package) -> None:
    """KFP's cache key holds names of artifacts, not contents: without the digest, changed bytes would be reused."""
    for name, component in package[0]["components"].items():
        if "executorLabel" not in component:
            continue
        inputs = component["inputDefinitions"]
        for port, definition in inputs.get("artifacts", {}).items():
            digest = f"{port}_digests" if definition.get("isArtifactList") else f"{port}_digest"
            assert digest in inputs["parameters"], f"{name}: {port} without {digest}"


def test_tasks_are_cached_as_their_stage_says(package) -> None:
    spec = package[0]
    for component in [spec["root"], *spec["components"].values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            inner = spec["components"][task["componentRef"]["name"]]
            if "executorLabel" in inner:
                stage = stage_of(spec, inner["executorLabel"])
                cached = task.get("cachingOptions", {}).get("enableCache", False)
                assert cached == (stage not in {"plan", "publish", "gate", "promote", "report"}), stage


def test_no_task_has_the_run_in_what_the_cache_sees(package) -> None:
    spec = package[0]
    for executor in executors(spec).values():
        container = executor["container"]
        assert "env" not in container, "environment variables are not in the cache key: settings go into parameters"
        assert container["args"] == ["--executor-input", "{{$}}", "--store", "{{$.inputs.parameters['store']}}"]
    runs = Counter(
        stage_of(spec, component["executorLabel"])
        for component in spec["components"].values()
        if "run" in component.get("inputDefinitions", {}).get("parameters", {}) and "executorLabel" in component
    )
    assert runs == {"plan": 1, "report": 1}


def test_every_task_is_hardened(package) -> None:
    spec, platform = package
    kubernetes = executors(platform["platforms"]["kubernetes"])
    assert set(kubernetes) == set(executors(spec))
    for executor in kubernetes.values():
        assert executor["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        (credentials,) = executor["secretAsEnv"]
        assert credentials["optional"] is True
        assert {"mountPath": "/scratch", "volumeName": "scratch"} in executor["emptyDirMounts"]


def test_only_these_stages_ever_hold_an_accelerator(package) -> None:
    spec, platform = package
    for label, executor in executors(spec).items():
        stage = stage_of(spec, label)
        accelerator = executor["container"].get("resources", {}).get("accelerator")
        assert (accelerator is not None) == (stage in GPU_STAGES), stage
        if stage == "vote":
            assert accelerator["resourceCount"] == "{{$.inputs.parameters['accelerators']}}"
        selector = executors(platform["platforms"]["kubernetes"])[label].get("nodeSelector")
        assert (selector is not None) == (stage in GPU_STAGES), stage


def test_images_are_those_of_the_stages_with_the_version_as_tag(package) -> None:
    for label, executor in executors(package[0]).items():
        assert executor["container"]["image"] == stage_reference(stage_of(package[0], label))
    assert {stage: image_of(stage) for stage in ("plan", "tally", "report")} == dict.fromkeys(
        ("plan", "tally", "report"), "client"
    )
    assert {image_of("vote"), image_of("evaluate")} == {"vllm"}


def test_loops_are_not_directly_inside_the_exit_handler(package) -> None:
    """kubeflow/pipelines 12390: that compiles, but fails on a real backend."""
    spec = package[0]
    (handler,) = (component for name, component in spec["components"].items() if name.startswith("comp-exit-handler"))
    assert all("parameterIterator" not in task for task in handler["dag"]["tasks"].values())


def test_parameters_are_few_described_and_as_declared(package) -> None:
    shown = package[0]["root"]["inputDefinitions"]["parameters"]
    assert len(shown) <= 15
    assert set(shown) == {parameter.name for parameter in PARAMETERS}
    kinds = {str: "STRING", bool: "BOOLEAN", int: "NUMBER_INTEGER", dict: "STRUCT"}
    for parameter in PARAMETERS:
        definition = shown[parameter.name]
        assert definition["description"] == parameter.description
        assert definition["parameterType"] == kinds[parameter.type]
        assert definition.get("defaultValue", "") == parameter.default, parameter.name


def test_public_parameters_are_frozen() -> None:
    lines = [f"{parameter.name} {parameter.type.__name__} {parameter.default!r}" for parameter in PARAMETERS]
    assert lines == FROZEN.read_text(encoding="utf-8").splitlines(), "users set these; change them with care"


def test_every_stage_has_a_component_of_its_name() -> None:
    import components

    assert set(components.__all__) == set(STAGE_NAMES)
    for name in STAGE_NAMES:
        component = getattr(components, name)
        if name in ("plan", "report"):
            continue
        summary = stage_spec(name).summary
        assert importlib.import_module(f"components.{name}").__doc__ == f"{name} as a Kubeflow component: {summary}."
        outputs = {output_port(name, output) for output in stage_spec(name).outputs}
        assert outputs <= set(component.component_spec.outputs)
        assert {"metrics", "digest"} <= set(component.component_spec.outputs)


def test_what_a_person_reads_in_the_pages_is_declared_as_markdown_or_html() -> None:
    import components

    shown = {
        (name, output): spec.type
        for name in components.__all__
        for output, spec in getattr(components, name).component_spec.outputs.items()
        if spec.type.split("@")[0] in ("system.Markdown", "system.HTML")
    }
    pages = {(name, "summary"): "system.Markdown@0.0.1" for name in ("plan", "evaluate", "gate", "report")}
    assert shown == {**pages, ("report", "page"): "system.HTML@0.0.1"}
