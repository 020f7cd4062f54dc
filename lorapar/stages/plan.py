"""plan: validate everything before anything starts, fix what is open, and hand each stage its own settings.

It resolves the model's revision and the data's digest, so that changed weights or changed rows at the same address
re-run what reads them. It settles number formats that are `auto`, once for the run. It needs no torch; where that and
transformers are installed, torch is asked for the format and some rows are seen through the model's chat template.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lorapar import __version__
from lorapar.basemodel import resolve_model
from lorapar.basemodel.number_format import number_format, open_in_model, open_in_teacher
from lorapar.basemodel.quantized import is_quantized, require_known_form
from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.basemodel.shape import config_values
from lorapar.config import (
    BenchmarkConfig,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    RlConfig,
    RunConfig,
    TeacherConfig,
    lora_slot,
)
from lorapar.config.data import TASK_MIX
from lorapar.config.idle import without_effect
from lorapar.config.rollouts import ENGINES
from lorapar.config.training import methods_of, trained_in
from lorapar.data import resolve_data
from lorapar.errors import BadInputError, LoraparError, UnreachableError
from lorapar.evaluation.benchmarks import check_benchmarks, resolve_benchmarks
from lorapar.records import write_json
from lorapar.registry import start
from lorapar.serving.base_identity import compare
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec, stage_spec
from lorapar.stages.graph import GRAPH
from lorapar.stages.model_text import look
from lorapar.stages.plan_file import Plan
from lorapar.store import parse_address
from lorapar.training.reward_model import resolved_reward_model
from lorapar.training.rewards import load_rewards
from lorapar.voting.tally import resolve_edits


class Settings(StageSettings):
    """The whole run."""

    config: RunConfig
    accelerators: bool | None = None
    """Whether the machines that run the stages have accelerators; None: they run on this one."""


SPEC = StageSpec(
    name="plan",
    summary="validate the settings, resolve model and data, hand each stage its own settings",
    settings=Settings,
    outputs=("plan",),
    image="client",
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write plan.json."""
    plan = make_plan(call.settings.config, call.settings.accelerators)
    if plan.number_format is not None:
        call.progress.log(f"number format {plan.number_format}")
    seen = look(plan.config)
    for note in seen.notes:
        call.progress.log(f"data: {note}")
    for note in without_effect(plan.config):
        call.progress.log(f"settings: {note}")
    for note in plan.benchmark_notes:
        call.progress.log(f"evaluate.benchmarks: {note}")
    if seen.check is not None:
        call.progress.log(f"answers of {plan.config.model.name} {seen.check.ends}")
    write_json(call.output("plan") / "plan.json", plan.model_dump(mode="json"))
    return {"nodes": len(GRAPH)}


def make_plan(config: RunConfig, accelerators: bool | None = None) -> Plan:
    """Resolve what is open in the settings; raises BadInputError or UnreachableError in the first seconds.

    `accelerators`: as in `number_format`.
    """
    for length in sorted({one.max_completion_length for one in config.rl_sections()}):
        load_rewards(config.rl.rewards, max_completion_length=length)
    if config.registry.address is not None:
        parse_address(config.registry.address)
    if config.data.named != TASK_MIX and config.data.heldout == 0:
        raise BadInputError("data.heldout is 0, so nothing could be evaluated; hold some rows out (0.1: a tenth)")
    benchmarks = check_benchmarks(config.evaluate, config.seed, (*config.gate.measures, *config.gate.max_loss_of))
    sections = tuple(RunConfig.model_fields)
    resolved, description = with_number_formats(resolve_config(config, sections), sections, accelerators)
    if resolved.rl.rollouts in ENGINES and "rl" in resolved.methods:
        lora_slot(resolved.held_rank, "rl.rollouts")
    return Plan(
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=resolved,
        sections=node_settings(resolved),
        number_format=description,
        benchmark_notes=tuple(remark for one in benchmarks for remark in one.remarks),
    )


def resolve_config(config: RunConfig, sections: tuple[str, ...]) -> RunConfig:
    """The settings with revisions and digests filled in, for the sections named: a stage alone needs no others."""
    resolved: dict[str, Any] = {}
    if "model" in sections:
        resolved["model"] = _resolve(config.model)
        _require_known_form(resolved["model"])
        _require_full_where_needed(config, resolved["model"])
        if "adapter" in sections and config.model.adapter is not None:
            resolved["model"] = _with_start(resolved["model"], config.registry.address)
    if "teachers" in sections:
        resolved["teachers"] = tuple(map(_pinned, config.teachers))
    if "edits" in sections:
        resolved["edits"] = resolve_edits(config.edits, config.system_names)
    if "rl" in sections:
        resolved["rl"] = _with_reward_models(config.rl)
    if "data" in sections or "evaluate" in sections:
        resolved["evaluate"] = _with_judging_models(resolve_benchmarks(config.evaluate, config.seed))
    if "data" in sections:
        compared = tuple(map(_rows_only, resolved["evaluate"].benchmarks))
        resolved["data"] = resolve_data(_with_store(config)).model_copy(update={"benchmarks": compared})
    return config.model_copy(update=resolved)


def _with_store(config: RunConfig) -> DataConfig:
    """The data's settings, a capture's store being the registry's where they name none, as for the server."""
    if config.data.capture.address is not None or not config.data.has_capture:
        return config.data
    capture = config.data.capture.model_copy(update={"address": config.registry.address})
    return config.data.model_copy(update={"capture": capture})


_OF_ASKING = ("max_new_tokens", "chat", "system", "metric")


def _rows_only(benchmark: BenchmarkConfig) -> BenchmarkConfig:
    """A benchmark as prepare sees it: how its rows are asked changes nothing there, and so does not re-run it."""
    if not benchmark.built_in:  # settings and rows of a task of lm-eval's have one digest
        return benchmark
    return benchmark.model_copy(update={name: BenchmarkConfig.model_fields[name].default for name in _OF_ASKING})


def with_number_formats(
    config: RunConfig, sections: tuple[str, ...], accelerators: bool | None = None
) -> tuple[RunConfig, str | None]:
    """The settings with no format `auto` in the sections named, and what it came to; None where none was."""
    model = "model" in sections and open_in_model(config.model)
    teachers = "teachers" in sections and any(map(open_in_teacher, config.teachers))
    if not (model or teachers):
        return config, None
    found = number_format(accelerators)
    resolved: dict[str, Any] = {}
    if model:
        resolved["model"] = found.of_model(config.model)
    if teachers:
        resolved["teachers"] = tuple(map(found.of_teacher, config.teachers))
    return config.model_copy(update=resolved), found.description


def node_settings(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The settings of every node but `plan`: the sections its stage reads, then the node's own parameters."""
    sections = {}
    for node in GRAPH:
        if node.stage != "plan":
            sections[node.name] = stage_settings(config, node.stage, node.parameters).model_dump(mode="json")
    return sections


def stage_settings(config: RunConfig, stage: str, parameters: Any) -> StageSettings:
    """The typed settings of one stage: sections of the run's settings by name, parameters on top."""
    spec = stage_spec(stage)
    values = {name: getattr(config, name) for name in spec.sections if hasattr(config, name)}
    if "model" in values and "adapter" not in values:
        # What a run goes on from is in the adapter that `init` makes; other stages are not asked again for it.
        values["model"] = config.model.alone
    if "trains" in spec.sections:
        values["trains"] = trained_in(stage, config.phases)
        if stage == "rl" and not any("sft" in methods_of(phase) for phase in values["trains"]):
            del values["sft"]  # SFT's settings decide nothing here
        if stage == "rl" and not config.rl.score_again:
            del values["score"], values["partition"]
    if stage == "tally" and config.voting.labels != "random":
        del values["seed"]
    values |= _of_a_pick(config, stage)
    if stage == "publish" and config.publish.pick == "last":
        del values["publish"], values["evaluate"], values["answers"]  # nothing is asked
    settings: StageSettings = spec.settings.model_validate({**values, **parameters})
    return settings


_UNASKED = ("limit", "benchmarks", "judges", "confidence")


def _of_a_pick(config: RunConfig, stage: str) -> dict[str, Any]:
    """What `publish.pick: best` asks of the node that trains last, and how publish asks the development rows."""
    if config.publish.pick == "last":
        return {}
    trains_last = "rl" if trained_in("rl", config.phases) else "sft"
    if stage == trains_last:
        return {"candidates": config.publish.candidates}
    if stage == "publish":
        default = EvaluateConfig()
        asked = {name: getattr(default, name) for name in _UNASKED}
        return {"evaluate": config.evaluate.model_copy(update=asked)}
    return {}


def _resolve(model: ModelConfig) -> ModelConfig:
    """The model with revision and digest; that of a folder or bucket is taken again, its bytes may have changed."""
    fresh = model.model_copy(update={"digest": None}) if kind_of(model) in (Kind.LOCAL, Kind.BUCKET) else model
    return resolve_model(fresh)


def _require_known_form(model: ModelConfig) -> None:
    """Raises BadInputError for weights that nothing here can tune; where the hub is silent, loading will say it."""
    with suppress(UnreachableError):
        require_known_form(model, config_values(model))


def _require_full_where_needed(config: RunConfig, model: ModelConfig) -> None:
    """Raises BadInputError where files that bitsandbytes quantised meet a setting that works with full weights alone.

    `model.quantization` is refused with the settings.
    """
    asked = [("sharding is fsdp2", config.sharding == "fsdp2", "is not sharded", "sharding to none")]
    for key, value in (("rl.rollouts", config.rl.rollouts), ("evaluate.backend", config.evaluate.backend)):
        why = "vLLM reads with kernels of its own (not tested here)"
        asked.append((f"{key} is {value}", value in ENGINES, why, f"{key} to transformers"))
    with suppress(UnreachableError):
        for setting, is_asked, why, instead in asked:
            if is_asked and is_quantized(model, config_values(model)):
                raise BadInputError(
                    f"{setting}, and {model.name} is a base in 8 or 4 bits, which {why}; set {instead}, or name the "
                    "model that it was made from"
                )


def _with_start(model: ModelConfig, registry: str | None) -> ModelConfig:
    """The model with what `model.adapter` is now; a base in a folder is compared with the one it was made for."""
    resolved = start.resolve_start(model, registry)
    if kind_of(model) is Kind.LOCAL:
        base = start.base_of(start.read_start(resolved))
        if base is not None and compare(base, Path(model.name).expanduser()).found == "other":
            raise start.other_base(resolved, base)
    return resolved


def _with_reward_models(rl: RlConfig) -> RlConfig:
    """The section with each reward model's revision and digest."""
    pinned = {
        name: one.model_copy(update={"reward_model": resolved_reward_model(name, one.reward_model)})
        for name, one in rl.reward_configs().items()
        if one.reward_model is not None
    }
    return rl.model_copy(update={"rewards": {**rl.rewards, **pinned}}) if pinned else rl


def _with_judging_models(evaluate: EvaluateConfig) -> EvaluateConfig:
    """The section with the revision and digest of each reward model in `judges`."""
    pinned = {
        name: one.model_copy(update={"reward_model": resolved_reward_model(name, one.reward_model, "evaluate.judges")})
        for name, one in evaluate.judges.items()
        if one.reward_model is not None
    }
    return evaluate.model_copy(update={"judges": {**evaluate.judges, **pinned}}) if pinned else evaluate


_TEACHER_KEYS = {"name": "teachers[{}].model: ", "revision": "teachers[{}].revision: "}


def _pinned(teacher: TeacherConfig) -> TeacherConfig:
    """The teacher with its own model's revision and digest; what an endpoint serves cannot be looked up."""
    if teacher.model is None or teacher.backend == "openai":
        return teacher
    try:
        model = _resolve(ModelConfig(name=teacher.model, revision=teacher.revision))
        if teacher.backend == "transformers":
            _require_known_form(model)
    except LoraparError as error:
        description = re.sub(
            r"^model\.(name|revision): ", lambda key: _TEACHER_KEYS[key[1]].format(teacher.name), str(error)
        )
        raise type(error)(description) from None
    return teacher.model_copy(update={"revision": model.revision, "digest": model.digest})
