"""The contract of a stage: typed settings and input folders in, output folders and metrics out.

The same function runs in `lorapar run`, in `lorapar stage NAME` and in a container of a Kubeflow pipeline; none of the
three knows what is inside. A stage module holds a `SPEC` (importable without torch) and `run(call)`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from lorapar.checkpoint import Keeper
from lorapar.errors import BadInputError, nearest
from lorapar.extras import pip_install
from lorapar.progress import Progress, Silent
from lorapar.store import ObjectStore
from lorapar.tracking import Tracking

if TYPE_CHECKING:
    from lorapar.stages.nodes import Crew

Metrics = dict[str, float]

TRAINING_PACKAGES = (
    *("torch", "transformers", "trl", "peft", "accelerate", "datasets", "gguf", "pyarrow", "tokenizers"),
    "psutil",
)
"""What the extra `train` brings; the client goes without."""
BENCHMARK_PACKAGES = ("lm_eval", "math_verify")
"""What the extra `eval` brings besides; benchmarks and `answers: math` need it."""


class StageSettings(BaseModel):
    """The part of a run's settings that one stage sees: its fields are section names of RunConfig, or parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


S = TypeVar("S", bound=StageSettings)


@dataclass(frozen=True)
class Origin:
    """Which run a call belongs to, for records only: nothing that a stage makes may depend on it."""

    run: str = ""
    """Address of the run: its folder, or its identity in a pipeline."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Container images of the run by name, pinned by digest; empty outside containers."""
    tracking: Tracking | None = None
    """Experiment trackers that show the run; None where it has none."""

    @classmethod
    def of_environment(cls) -> Origin:
        """From the environment of this process: LORAPAR_RUN, and LORAPAR_IMAGES as `name=image,name=image`."""
        pairs = (one.partition("=") for one in os.environ.get("LORAPAR_IMAGES", "").split(",") if "=" in one)
        return cls(os.environ.get("LORAPAR_RUN", ""), {name.strip(): image.strip() for name, _, image in pairs})


@dataclass(frozen=True)
class StageSpec(Generic[S]):
    """What a stage takes and makes. Inputs in `many` may be several folders (the votes of several teachers)."""

    name: str
    summary: str
    settings: type[S]
    inputs: tuple[str, ...] = ()
    many: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    may_lack: tuple[str, ...] = ()
    """Those of `outputs` that a call may do without: who runs the stage alone and does not want them."""
    image: str = "trainer"

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the RunConfig sections and parameters the stage reads."""
        return tuple(self.settings.model_fields)


@dataclass(frozen=True)
class StageCall(Generic[S]):
    """One call of a stage."""

    settings: S
    inputs: Mapping[str, tuple[Path, ...]]
    outputs: Mapping[str, Path]
    """An empty folder for each output; the caller seals it with a manifest afterwards."""
    scratch: Path
    """A folder that outlives a failure and is found again by the next call with the same settings and inputs."""
    progress: Progress = field(default_factory=Silent)
    keeper: Keeper = field(default_factory=Keeper)
    """Says when unfinished work in `scratch` should be brought up to date, and copies it where there is a store."""
    origin: Origin = field(default_factory=Origin.of_environment)
    cache: Path | None = None
    """A folder for what is remembered by content from call to call, whatever their settings; None: nothing is."""
    store: ObjectStore | None = None
    """Where machines share what they remember by content; None: they do not."""
    anew: bool = False
    """Whether models are asked again, whatever is remembered; what they say then takes the place of that."""
    processes: int | None = None
    """Most processes that train together; None: one for each visible GPU. Decides no output."""
    sharding: Literal["none", "fsdp2"] = "none"
    """How several processes that train hold the base. Decides no output, but for rounding."""
    crew: Crew | None = None
    """The other machines that train with this one; None: there are none. Decides no output, but for rounding."""
    judged: bool = True
    """Whether a gate follows; a run on one machine may end before it. Decides no output, only what is refused early."""
    rewarded: bool = True
    """Whether RL follows; as `judged`."""

    def input(self, name: str) -> Path:
        """The one folder of an input."""
        (path,) = self.inputs[name]
        return path

    def output(self, name: str) -> Path:
        """The folder of an output."""
        return self.outputs[name]


WHOLE_FILE = "whole.json"
"""In the output `scores` of an adapter that is not divided: the shapes of its tensors, in place of scores."""

STAGE_NAMES = (
    "plan",
    "prepare",
    "vote",
    "tally",
    "init",
    "score",
    "partition",
    "sft",
    "rl",
    "publish",
    "evaluate",
    "execute",
    "gate",
    "promote",
    "report",
)


NEVER_CACHED = frozenset({"plan", "publish", "gate", "promote", "report"})
"""Stages that read or move what no input names, so that they run every time."""


def is_cached(stage: str) -> bool:
    """Whether a stage's result is reused where nothing it reads has changed. Asked without importing the stage."""
    return stage not in NEVER_CACHED


def stage_module(name: str) -> Any:
    """The module of a stage; raises BadInputError with the nearest right name."""
    if name not in STAGE_NAMES:
        raise BadInputError(
            f"no stage is called '{name}'{nearest(name, list(STAGE_NAMES))}; known: {', '.join(STAGE_NAMES)}"
        )
    return importlib.import_module(f"lorapar.stages.{name}")


def stage_spec(name: str) -> StageSpec[Any]:
    """What a stage takes and makes."""
    spec: StageSpec[Any] = stage_module(name).SPEC
    return spec


def run_stage(name: str, call: StageCall[Any]) -> Metrics:
    """Run a stage; returns flat, finite metrics. Raises BadInputError where this is an install without its packages."""
    try:
        metrics: Metrics = stage_module(name).run(call)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in (*TRAINING_PACKAGES, *BENCHMARK_PACKAGES):
            raise
        extras = "train,eval" if package in BENCHMARK_PACKAGES else "train"
        raise BadInputError(
            f"the stage {name} needs {package}, which is not installed here: {pip_install(extras)}"
        ) from error
    return metrics
