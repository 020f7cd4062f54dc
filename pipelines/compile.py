"""`python -m pipelines.compile`: write the package that the wheel ships, lorapar/kubeflow/pipeline.yaml."""

import tempfile
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler

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
    _take_accelerators_from_the_loop(spec)
    return [spec, platform]


def package_text() -> str:
    """The file's content."""
    head = "# Made by `make pipeline` from pipelines/lorapar_pipeline.py; a test keeps the two equal.\n"
    return head + yaml.safe_dump_all(compiled(), sort_keys=False, allow_unicode=True, width=120)


def _describe(spec: dict[str, Any]) -> None:
    """What Kubeflow's form shows at each parameter; KFP takes it from docstrings of one style only."""
    shown = spec["root"]["inputDefinitions"]["parameters"]
    for parameter in PARAMETERS:
        shown[parameter.name]["description"] = parameter.description


def _take_accelerators_from_the_loop(spec: dict[str, Any]) -> None:
    """Let each vote task take as many accelerators as its item says: one for vLLM, none for an endpoint.

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


if __name__ == "__main__":
    PACKAGE.write_text(package_text(), encoding="utf-8")
