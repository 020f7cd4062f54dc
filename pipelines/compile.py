"""`python -m pipelines.compile`: write the package that the wheel ships, lorapar/kubeflow/pipeline.yaml."""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler

from lorapar.kubeflow.package import set_accelerators
from lorapar.kubeflow.parameters import PARAMETERS
from pipelines.lorapar_pipeline import lorapar

PACKAGE = Path(__file__).resolve().parents[1] / "lorapar" / "kubeflow" / "pipeline.yaml"


def compiled() -> list[dict[str, Any]]:
    """The pipeline's two documents: what runs, and how Kubernetes runs it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(lorapar, str(path))
        spec, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    _describe(spec)
    _take_accelerators_as_told(spec)
    for component in (spec["root"], *spec["components"].values()):
        _name_tasks_as_shown(component)
        _pick_settings(component)
    set_accelerators(spec)
    return [_with_names_of_outputs(spec), platform]


def package_text() -> str:
    """The file's content."""
    head = "# Made by `make pipeline` from pipelines/lorapar_pipeline.py; a test keeps the two equal.\n"
    return head + yaml.safe_dump_all(compiled(), sort_keys=False, allow_unicode=True, width=120)


def _describe(spec: dict[str, Any]) -> None:
    """What Kubeflow's form shows at each parameter; KFP takes it from docstrings of one style only."""
    shown = spec["root"]["inputDefinitions"]["parameters"]
    for parameter in PARAMETERS:
        shown[parameter.name]["description"] = parameter.description


def _take_accelerators_as_told(spec: dict[str, Any]) -> None:
    """Let each vote task take as many accelerators as it is told: one for vLLM, none for an endpoint.

    KFP's backend resolves a task's own input here, but its compiler does not take a field of a loop's item.
    """
    for executor in spec["deploymentSpec"]["executors"].values():
        if executor["container"]["command"][-1] == "vote":
            executor["container"]["resources"] = {
                "accelerator": {
                    "resourceType": "nvidia.com/gpu",
                    "resourceCount": "{{$.inputs.parameters['accelerators']}}",
                }
            }


def _name_tasks_as_shown(component: dict[str, Any]) -> None:
    """Call each task as it is shown: Kubeflow's API knows the names of the spec only, and would say `score-2`."""
    tasks = component.get("dag", {}).get("tasks", {})
    names = {name: task["taskInfo"]["name"] for name, task in tasks.items() if _is_container(task)}
    if names:
        component["dag"] = _renamed(component["dag"], names)


def _pick_settings(component: dict[str, Any]) -> None:
    """Let each task take the digest of its own settings out of all that `plan` hands on as one parameter.

    KFP's backend picks a field out of any parameter; its compiler only writes that for the items of a loop.
    """
    for name, task in component.get("dag", {}).get("tasks", {}).items():
        given = task.get("inputs", {}).get("parameters", {}).get("settings", {})
        if given.get("componentInputParameter") == "pipelinechannel--plan-settings" and _is_container(task):
            given["parameterExpressionSelector"] = f'parseJson(string_value)["{name}"]'


def _is_container(task: dict[str, Any]) -> bool:
    """Whether a task is a pod of ours, and not a group of others."""
    return "cachingOptions" in task


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """A DAG with its tasks called otherwise, wherever it speaks of one."""
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, inner in value.items():
        if key == "tasks":
            found[key] = {names.get(name, name): _renamed(task, names) for name, task in inner.items()}
        elif key in ("producerTask", "producerSubtask"):
            found[key] = names.get(inner, inner)
        elif key == "dependentTasks":
            found[key] = sorted(names.get(name, name) for name in inner)
        else:
            found[key] = _renamed(inner, names)
    return found


def _with_names_of_outputs(spec: dict[str, Any]) -> dict[str, Any]:
    """Write the condition's input as kfp.local reads it: a task and its output, parted by two dashes.

    Any name does for a cluster. Without that a local run of the package takes every condition on a task for false.
    """
    text = json.dumps(spec).replace("pipelinechannel--plan-changed", "pipelinechannel--plan--changed")
    found: dict[str, Any] = json.loads(text)
    return found


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PACKAGE.write_text(package_text(), encoding="utf-8")
