"""The parameters of the pipeline: what a person may set in Kubeflow's form when starting a run.

They are few, grouped, and each has a safe default. One of them holds the run's settings, which hold everything else. A
test freezes their names, types and defaults; `pipelines/form.py` makes them the pipeline's signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """One field of the form."""

    name: str
    type: type
    default: Any
    description: str
    key: str = ""
    """The key of the settings that it sets, where it sets one; an empty text leaves that to the settings."""


PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "config", str, "preset:demo", "The run's settings: `preset:NAME`, an s3:// address of a YAML file, or YAML"
    ),
    Parameter("overrides", str, "", "Single settings on top, one `section.key=value` a line"),
    Parameter(
        "base_model", str, "", "Hub name of the base model (model.name); empty: as in the settings", "model.name"
    ),
    Parameter(
        "dataset", str, "", "Where the examples come from (data.source); empty: as in the settings", "data.source"
    ),
    Parameter(
        "teachers",
        str,
        "",
        "The voters: hub names separated by commas, or YAML as in the settings; empty: as in the settings",
        "teachers",
    ),
    Parameter(
        "theta",
        str,
        "",
        "Share of the total importance kept, above 0 up to 1; empty: as in the settings",
        "partition.theta",
    ),
    Parameter(
        "alpha",
        str,
        "",
        "Share of the shared elements that SFT may train; empty: as in the settings",
        "partition.alpha",
    ),
    Parameter(
        "beta", str, "", "Share of the shared elements that RL may train; empty: as in the settings", "partition.beta"
    ),
    Parameter("adapter_name", str, "", "Name the adapter is published under (name); empty: as in the settings", "name"),
    Parameter(
        "registry", str, "", "Where adapters are published; empty: `registry` below the store", "registry.address"
    ),
    Parameter("promote", bool, True, "Let `production` move to the new version where the gate finds it better"),
    Parameter("store", str, "s3://mlpipeline/lorapar", "Where data, checkpoints and results lie: s3://BUCKET/PREFIX"),
    Parameter("gpu_pool", dict, {}, 'Labels of the nodes that GPU stages run on, such as {"pool": "gpu"}; empty: any'),
    Parameter("parallelism", int, 4, "How many vote tasks of a round run at once, 1 or more"),
    Parameter("webhook", str, "", "Address that the closing summary is posted to as JSON; empty: nowhere"),
)
