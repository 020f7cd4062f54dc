"""The pipeline that the wheel ships: its edges, its parameters, what Kubernetes is told, what KFP's cache sees."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes_pb
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

from lorapar.kubeflow.executor import CREDENTIALS_FOLDER
from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.parameters import PARAMETERS
from lorapar.kubeflow.placement import Group, Placement
from lorapar.kubeflow.task_outputs import FIGURES
from lorapar.kubeflow.tasks import (
    TASKS,
    default_reference,
    digest_parameter,
    input_ports,
    node_ports,
    output_edges,
    task_of,
)
from lorapar.stages.graph import GRAPH, node_names
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


class Wires:
    """Where every parameter of every container task comes from: (task, output), groups of tasks looked through."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.found: dict[str, dict[str, tuple[str, str]]] = {}
        self._walk(spec["root"], {})

    def _walk(self, component: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """`given`: where the component's own inputs come from; returns where its outputs do."""
        made: dict[tuple[str, str], Any] = {}
        tasks = component["dag"]["tasks"]
        for name in ordered(tasks):
            task = tasks[name]
            assert "artifacts" not in task.get("inputs", {}), "what passes from task to task are digests"
            inputs = task.get("inputs", {}).get("parameters", {})
            values = {port: self._source(source, given, made) for port, source in inputs.items()}
            inner = self.spec["components"][task["componentRef"]["name"]]
            if "dag" in inner:
                made |= {(name, key): value for key, value in self._walk(inner, values).items()}
                continue
            assert name not in self.found, "each task has a name of its own"
            self.found[name] = values
            made |= {(name, key): (name, key) for key in inner["outputDefinitions"].get("parameters", {})}
        return {
            key: made[(one["valueFromParameter"]["producerSubtask"], one["valueFromParameter"]["outputParameterKey"])]
            for key, one in component["dag"].get("outputs", {}).get("parameters", {}).items()
        }

    def _source(self, source: dict[str, Any], own: dict[str, Any], made: dict[tuple[str, str], Any]) -> Any:
        if "componentInputParameter" in source:
            return own.get(source["componentInputParameter"].removesuffix("-loop-item"), ("", ""))
        if "taskOutputParameter" in source:
            output = source["taskOutputParameter"]
            return made[(output["producerTask"], output["outputParameterKey"])]
        return ("", str(source.get("runtimeValue", "")))


def ordered(tasks: dict[str, Any]) -> list[str]:
    """Tasks after those they depend on."""
    done: list[str] = []
    while len(done) < len(tasks):
        ready = [name for name in tasks if name not in done and set(tasks[name].get("dependentTasks", ())) <= set(done)]
        assert ready, "tasks wait for each other"
        done += ready
    return done


def test_the_tasks_are_named_after_nodes_and_run_every_node_once(package) -> None:
    assert sorted(Wires(package[0]).found) == sorted(task.name for task in TASKS)
    assert sorted(node.name for task in TASKS for node in task.nodes) == sorted(node_names())
    order = node_names()
    for task in TASKS:
        assert [node.name for node in task.nodes] == sorted((node.name for node in task.nodes), key=order.index)


def test_the_visible_stages_of_the_method_have_tasks_of_their_own() -> None:
    own = {task.name for task in TASKS}
    assert {"vote-first", "vote-rest", "score-system1", "score-system2", "partition", "sft", "rl"} <= own
    assert {"publish", "evaluate", "gate", "report"} <= own


def test_the_pipeline_has_the_edges_of_the_local_runner(package) -> None:
    """An edge of the graph is a digest that one task hands another, or stays inside a task."""
    wires = Wires(package[0]).found
    expected = {
        (task_of(node.name).name, port.digest, task_of(edge.node).name, digest_parameter(edge))
        for node in GRAPH
        # The exit task is given no outputs: it finds them by the same edges in the store (test_reporting.py).
        if node.stage != "report"
        for port, edge in node_ports(node)
        if task_of(edge.node) is not task_of(node.name)
    }
    found = {
        (task, parameter, *source)
        for task, given in wires.items()
        for parameter, source in given.items()
        if parameter.endswith(("_digest", "_digests"))
    }
    assert found == expected


def test_every_task_gets_its_own_settings(package) -> None:
    for task, given in Wires(package[0]).found.items():
        if task == "vote-first":
            assert given["settings"] == given["accelerators"] == ("plan", "vote_first_lanes")
        elif task not in ("plan", "report"):
            assert given["settings"] == ("plan", "settings")
            (selector,) = (
                one["inputs"]["parameters"]["settings"]["parameterExpressionSelector"]
                for component in package[0]["components"].values()
                for name, one in component.get("dag", {"tasks": {}})["tasks"].items()
                if name == task
            )
            assert selector == f'parseJson(string_value)["{task}"]', "as in the items of a loop"


def test_no_cached_task_takes_an_artifact_of_one_that_always_runs(package) -> None:
    """An artifact's name in the cache key is a number of Kubeflow's database, new whenever its task has run.

    So `evaluate` would ask the models again in every run, because `publish` is never cached. Kubeflow 2.17.0:
    backend/src/v2/cacheutils/cache.go, GenerateCacheKey. Digests, which are parameters, decide instead.
    """
    spec = package[0]
    for component in [spec["root"], *spec["components"].values()]:
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            assert "artifacts" not in task.get("inputs", {}), name
        assert "artifacts" not in component.get("inputDefinitions", {})


def test_tasks_are_cached_as_their_stages_say(package) -> None:
    spec = package[0]
    for component in [spec["root"], *spec["components"].values()]:
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            inner = spec["components"][task["componentRef"]["name"]]
            if "executorLabel" in inner:
                cached = task.get("cachingOptions", {}).get("enableCache", False)
                assert cached == (name not in {"plan", "publish", "gate", "report"}), name


def test_the_shipped_package_tells_plan_what_tasks_take_without_being_compiled_again(package) -> None:
    """Somebody may upload lorapar/kubeflow/pipeline.yaml as it is."""
    tasks = [task for one in package[0]["components"].values() for task in one.get("dag", {}).get("tasks", {}).items()]
    (plan,) = (task for name, task in tasks if name == "plan")
    asked = plan["inputs"]["parameters"]["accelerators"]["runtimeValue"]["constant"]
    on_gpu = ("score-system1", "score-system2", "sft", "rl", "evaluate")
    assert asked == {task: {"count": 1} for task in on_gpu}


def test_a_task_that_is_tried_again_has_all_its_time(package) -> None:
    """Argo counts a backoff's maximum from the first start and makes the rest of it the next attempt's deadline.

    Argo 4.0.5: workflow/controller/operator.go, processNodeRetries. Without one Kubeflow 2.17.0 writes 0, which is over
    before the first failure: backend/src/v2/compiler/argocompiler/container.go, addParameterDefault.
    """
    tried = set()
    for component in [package[0]["root"], *package[0]["components"].values()]:
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            if "cachingOptions" in task:
                tried.add(name)
                assert task["retryPolicy"]["maxRetryCount"] == 1
                assert task["retryPolicy"]["backoffDuration"] == ("5s" if name in ("plan", "report") else "30s"), name
                assert int(task["retryPolicy"]["backoffMaxDuration"].removesuffix("s")) == 30 * 24 * 3600, name
    assert tried == {task.name for task in TASKS}, "the closing one too: stopped, it would make a red run of a good one"


def test_the_longest_timeout_of_a_placement_does_not_end_its_retries() -> None:
    placement = Placement(groups={"rl": Group(timeout_seconds=20 * 24 * 3600, retries=3), "plan": Group(retries=2)})
    spec = build_package({}, placement).spec
    tasks = {
        name: task
        for one in spec["components"].values()
        for name, task in one.get("dag", {"tasks": {}})["tasks"].items()
    }
    assert int(tasks["rl"]["retryPolicy"]["backoffMaxDuration"].removesuffix("s")) >= 4 * 20 * 24 * 3600
    assert int(tasks["plan"]["retryPolicy"]["backoffMaxDuration"].removesuffix("s")) >= 30 * 24 * 3600


def test_a_run_without_a_cache_takes_nothing_from_the_store_either() -> None:
    spec = build_package({}, None, cached=False).spec
    for executor in executors(spec).values():
        assert {"name": "LORAPAR_REUSE", "value": "off"} in executor["container"]["env"]


def test_no_task_has_the_run_in_what_the_cache_sees(package) -> None:
    spec = package[0]
    for executor in executors(spec).values():
        container = executor["container"]
        assert "env" not in container, "environment variables are not in the cache key: settings go into parameters"
        assert container["args"] == ["--executor-input", "{{$}}"]
    runs = Counter(
        stage_of(spec, component["executorLabel"])
        for component in spec["components"].values()
        if "run" in component.get("inputDefinitions", {}).get("parameters", {}) and "executorLabel" in component
    )
    assert runs == {"plan": 1, "publish": 1, "gate": 1, "report": 1}, "none of them is ever taken from the cache"


def test_every_task_is_hardened(package) -> None:
    spec, platform = package
    kubernetes = executors(platform["platforms"]["kubernetes"])
    assert set(kubernetes) == set(executors(spec))
    for executor in kubernetes.values():
        assert executor["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        (credentials,) = executor["secretAsVolume"]
        assert credentials["optional"] is True
        assert credentials["mountPath"] == str(CREDENTIALS_FOLDER)
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


def test_each_task_has_the_smallest_image_with_all_that_its_nodes_need(package) -> None:
    images = {"vote": "vllm", "evaluate": "vllm", "gate": "client", "report": "client"}
    for label, executor in executors(package[0]).items():
        expected = images.get(stage_of(package[0], label), "trainer")
        assert executor["container"]["image"] == default_reference(expected), label


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


def test_every_task_has_a_component_that_declares_what_it_takes_and_makes() -> None:
    import components

    of = {task.name: task.name.replace("-", "_") for task in TASKS}
    of |= {"vote-first": "vote", "score-system1": "score", "score-system2": "score"}
    assert set(components.__all__) == set(of.values())
    for task in TASKS:
        spec = getattr(components, of[task.name]).component_spec
        assert ("metrics" in spec.outputs) == (task.name not in ("plan", "init", "publish", "report")), task.name
        assert ("metrics" in spec.outputs) == (task.name in FIGURES), task.name
        if task.name in ("plan", "report"):
            continue
        assert {"settings", "store", *input_ports(task)} <= set(spec.inputs), task.name
        digests = {digest_parameter(edge) for edge in output_edges(task)}
        assert digests == {name for name in spec.outputs if name.endswith("_digest")}, task.name


def test_kubeflow_shows_three_or_four_figures_of_each_stage_of_the_method(package) -> None:
    visible = {
        "vote-first",
        "vote-rest",
        "score-system1",
        "score-system2",
        "partition",
        "sft",
        "rl",
        "evaluate",
        "gate",
    }
    assert set(FIGURES) == visible
    assert {len(names) for names in FIGURES.values()} <= {3, 4}
    components = package[0]["components"]
    groups = [package[0]["root"], *components.values()]
    tasks = [task for group in groups for task in group.get("dag", {}).get("tasks", {}).values()]
    made = {
        task["taskInfo"]["name"]: components[task["componentRef"]["name"]].get("outputDefinitions", {})
        for task in tasks
    }
    for name in visible:
        assert made[name]["artifacts"]["metrics"]["artifactType"]["schemaTitle"] == "system.Metrics", name
    assert FIGURES["evaluate"] == (
        *("base_system1_accuracy", "after_rl_system1_accuracy"),
        *("base_system2_accuracy", "after_rl_system2_accuracy"),
    )


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
