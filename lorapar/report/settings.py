"""The run's settings in sentences; every setting with its default; and the digests of what it read and made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lorapar.config import AdapterConfig, RlConfig, RunConfig, SftConfig
from lorapar.config.training import PhaseConfig, phase_text
from lorapar.report.formats import count_of, number, shorten, system_name
from lorapar.report.sources import Facts, overlap_of
from lorapar.store import is_s3
from lorapar.voting.teacher import plays_role


def asked_section(facts: Facts) -> dict[str, Any] | None:
    """The run's task in words; None where not even the plan is there."""
    config = facts.config
    if config is None:
        return None
    return {
        "model": config.model.name,
        "facts": [
            ("Base model", _model(config)),
            *_number_format(facts),
            ("Data", _data(facts, config)),
            ("Voters", _voters(config)),
            ("Adapter", _adapter(config)),
            ("Partition", _partition(config)),
            ("SFT", _sft(facts, config)),
            ("RL", _rl(config)),
            ("Seed", f"{config.seed}, one run: how much another seed would change is not known from this report"),
        ],
        "prompts": [
            (name, shorten(message, 600))
            for name, message in (
                (system_name(system), config.prompts.message_for(system)) for system in config.system_names
            )
            if message
        ],
        "omissions": [(stage, one.line, one.is_much) for stage, one in facts.omissions],
        "created": (facts.plan or {}).get("created"),
    }


def _model(config: RunConfig) -> str:
    model = config.model
    held = f", held in {model.dtype}" + (f" with {model.autocast} autocast" if model.autocast != "none" else "")
    return (
        model.name + (f", {model.revision}" if model.revision else "") + held + "; its weights are read, never edited"
    )


def _number_format(facts: Facts) -> list[tuple[str, str]]:
    """What `auto` came to in this run; nothing where every format was set."""
    text = (facts.plan or {}).get("number_format")
    return [("Number format", f"auto: {text}")] if text else []


def _data(facts: Facts, config: RunConfig) -> str:
    source = {"task-mix": "the project's own generated task mix"}.get(config.data.named, config.data.named)
    if not facts.examples:
        return source
    train = [row for row in facts.examples.values() if row.split == "train"]
    development = sum(row.split == "development" for row in facts.examples.values())
    heldout = len(facts.examples) - len(train) - development
    text = f"{source}: {count_of(len(train), 'row')} to train on, {number(heldout)} held out for the scores below"
    text += f", {number(development)} to pick an adapter by" if development else ""
    return text + _overlap(facts)


def _overlap(facts: Facts) -> str:
    """What the comparison of training rows with all that is evaluated found."""
    compared = overlap_of(facts)
    with_what = " and ".join(compared.counts)
    found = sum(compared.counts.values())
    if not found:
        return f"; no training row shares its question with {with_what}"
    became = "left out" if compared.left_out else "trained on anyway"
    return f"; {became}: {count_of(found, 'training row')} with questions that stand in {with_what}"


def _voters(config: RunConfig) -> str:
    names = ", ".join(teacher.name for teacher in config.teachers)
    playing = sum(plays_role(teacher.template, config.voting.role_play) for teacher in config.teachers)
    role = {0: "without role-play", len(config.teachers): "in the role of the base model"}.get(
        playing, f"{playing} of them in the role of the base model"
    )
    decide = "decides" if len(config.teachers) == 1 else "vote; a row is asked about until its majority is certain"
    return f"{count_of(len(config.teachers), 'teacher')} ({names}), {role}, {decide}{_LABELS[config.voting.labels]}"


_LABELS = {
    "votes": "",
    "data": "; but training rows are of the systems that the data name, and were voted on only without one",
    "random": "; but training rows were assigned to the systems by chance, each as likely, as a control",
}


def _adapter(config: RunConfig) -> str:
    adapter = config.adapter
    layout = adapter.layout if isinstance(adapter.layout, str) else ", ".join(adapter.layout)
    if not adapter.is_partitioned:
        return _whole(adapter, layout)
    name = "rsLoRA" if adapter.kind == "rslora" else "LoRA"
    fresh = f"{name} of rank {adapter.rank}, alpha {adapter.alpha:g}, on {layout}, start: {adapter.init}"
    if config.model.adapter is None:
        return fresh
    if config.model.continue_:
        return f"the elements of {config.model.adapter_text}, trained further"
    rank = config.model.adapter_source.rank if config.model.adapter_source else None
    return f"{fresh}; beside {config.model.adapter_text}, which is held frozen" + (f" (rank {rank})" if rank else "")


def _whole(adapter: AdapterConfig, layout: str) -> str:
    """A kind of adapter that is trained as a whole."""
    if adapter.kind == "dora":
        return f"DoRA of rank {adapter.rank}, alpha {adapter.alpha:g}, on {layout}"
    return (
        "IA3 on keys, values and the MLP's last projection"
        if adapter.kind == "ia3"
        else (f"{adapter.kind} tuning with {adapter.virtual_tokens} virtual tokens")
    )


def _partition(config: RunConfig) -> str:
    part = config.partition
    if not config.adapter.is_partitioned:
        return "none: every phase trains the whole adapter"
    if config.shared_fractions is not None:
        shares = ", ".join(f"{system} {share:.0%}" for system, share in config.shared_fractions.items())
        return (
            f"every element is scored on {config.score.examples} rows of each system; theta {part.theta:g} of the "
            f"importance is kept; of the shared elements each system's phases may train: {shares}"
        )
    return (
        f"every element is scored on {config.score.examples} rows of each system; theta {part.theta:g} of the "
        f"importance is kept; of the shared elements SFT may train {part.alpha:.0%} (alpha), RL {part.beta:.0%} (beta)"
    )


def _rows_of(config: RunConfig, method: str) -> str:
    """Whose rows a method trains on."""
    named = [phase.system for phase in config.phases if isinstance(phase, PhaseConfig) and phase.method == method]
    if any(isinstance(phase, PhaseConfig) for phase in config.phases):
        return f"rows of {', then of '.join(map(system_name, named))} only" if named else "no rows"
    return f"System {1 if method == 'sft' else 2} rows only"


def _own_settings(config: RunConfig, method: str) -> str:
    """What phases by a method have set for themselves, as the end of a sentence."""
    named = [phase for phase in config.phases if isinstance(phase, PhaseConfig)]
    own = [phase_text(phase) for phase in named if phase.method == method and phase.settings]
    return f"; but {', '.join(own)}" if own else ""


def _sft(facts: Facts, config: RunConfig) -> str:
    sft = config.sft
    rows = _rows_of(config, "sft") if sft.rows == "system1" else "all rows (the authors' variant)"
    if sft.rows == "system1" and sft.warmup_system2_examples:
        used = len((facts.sft or {}).get("warmup_ids") or []) or sft.warmup_system2_examples
        repeats = f", each {sft.warmup_repeats} times an epoch" if sft.warmup_repeats > 1 else ""
        rows = f"System 1 rows and {count_of(used, 'System 2 row')} as a warm-up for RL{repeats}"
    batch = sft.batch_size * sft.gradient_accumulation
    if sft.train_on == "all" and any(row.history for row in facts.examples.values()):
        rows += ", every answer of a conversation"
    text = f"{rows}; {_length(sft)} of {count_of(batch, 'row')}, learning rate {sft.learning_rate:g}"
    return text + _own_settings(config, "sft")


def _rl(config: RunConfig) -> str:
    rl = config.rl
    rows = _rows_of(config, "rl") if rl.rows == "system2" else "all rows (the authors' variant)"
    prompts = rl.batch_size * rl.gradient_accumulation // rl.num_generations
    kl = (
        f"KL weight {rl.kl_beta:g} towards {'the base model' if rl.reference == 'base' else 'the SFT adapter'}"
        if rl.kl_beta
        else "no KL term"
    )
    return (
        f"GRPO on {rows}; {_length(rl)} of {count_of(prompts, 'prompt')} with {rl.num_generations} completions each, "
        f"learning rate {rl.learning_rate:g}, {kl}{_own_settings(config, 'rl')}"
    )


def _length(section: SftConfig | RlConfig) -> str:
    if section.max_steps is not None:
        return count_of(section.max_steps, "step")
    return f"{section.epochs:g} {'epoch' if section.epochs == 1 else 'epochs'} in steps"


@dataclass(frozen=True)
class Setting:
    """One setting with its value in this run."""

    key: str
    value: str
    default: str
    description: str

    @property
    def changed(self) -> bool:
        """Whether it differs from the default."""
        return self.value != self.default


@dataclass(frozen=True)
class SettingGroup:
    """The settings of one section."""

    name: str
    description: str
    settings: tuple[Setting, ...]


def settings_section(facts: Facts) -> dict[str, Any] | None:
    """Every setting by section, those that were changed, and the documents beside the page."""
    if facts.config is None:
        return None
    groups = setting_groups(with_near_addresses(facts.config, facts.run))
    return {"groups": groups, "changed": changed_settings(groups), "documents": documents(facts)}


def with_near_addresses(config: RunConfig, run: Path | None) -> RunConfig:
    """The settings, folders of storage in or beside the run folder as seen from there.

    A report is sent to others, and the runner fills in the registry's folder as an absolute path of its machine.
    """
    if run is None:
        return config
    shown = {}
    for name in ("store", "registry"):
        section = getattr(config, name)
        if section.address is not None and not is_s3(section.address):
            shown[name] = section.model_copy(update={"address": _near(Path(section.address), run.resolve())})
    return config.model_copy(update=shown)


def _near(path: Path, run: Path) -> str:
    return os.path.relpath(path, run) if path.is_absolute() and path.is_relative_to(run.parent) else str(path)


def setting_groups(config: RunConfig) -> list[SettingGroup]:
    """All settings by section; those that are in no section come first."""
    defaults = RunConfig()
    alone: list[Setting] = []
    groups: list[SettingGroup] = []
    for name, field in RunConfig.model_fields.items():
        value, default, about = getattr(config, name), getattr(defaults, name), field.description or ""
        if name == "systems" and value == default:
            continue  # not written down either
        if isinstance(value, BaseModel):
            groups.append(SettingGroup(name, about, tuple(_section(name, value, default))))
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            groups.append(SettingGroup(name, about, tuple(_listed(name, value))))
        else:
            alone.append(_setting(name, value, default, about))
    return [SettingGroup("run", "Settings of the whole run", tuple(alone)), *groups]


def changed_settings(groups: list[SettingGroup]) -> list[Setting]:
    """The settings that a person or `plan` set; digests, which plan fills in, are in a table of their own."""
    return [one for group in groups for one in group.settings if one.changed and not one.key.endswith("digest")]


def _section(path: str, value: BaseModel, default: Any) -> Iterator[Setting]:
    for name, field in type(value).model_fields.items():
        own, usual = getattr(value, name), getattr(default, name, None)
        key, about = f"{path}.{field.alias or name}", field.description or ""
        if isinstance(own, BaseModel):
            yield from _section(key, own, usual)
        elif isinstance(own, tuple) and own and isinstance(own[0], BaseModel):
            yield from _listed(key, own)
        else:
            yield _setting(key, own, usual, about)


def _listed(path: str, values: tuple[Any, ...]) -> Iterator[Setting]:
    """Members of a list, such as teachers; the defaults are those of an untouched member."""
    for place, value in enumerate(values):
        defaults = type(value).model_construct()
        yield from _section(f"{path}[{place}]", value, defaults)


def _setting(key: str, value: Any, default: Any, description: str) -> Setting:
    return Setting(key, _words(value), _words(default), description)


def _words(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_words(inner)}" for key, inner in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return number(value) if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def documents(facts: Facts) -> list[tuple[str, str]]:
    """(title, JSON) of what else says how the adapter came about: its lineage, and what TRL's trainers were told."""
    found = [
        ("lineage.json of the published adapter", facts.lineage),
        ("arguments of TRL's SFTTrainer", (facts.sft or {}).get("trl")),
        ("arguments of TRL's GRPOTrainer", (facts.rl or {}).get("trl")),
    ]
    return [
        (title, shorten(json.dumps(value, indent=2, ensure_ascii=False), 40_000)) for title, value in found if value
    ]


def digest_rows(facts: Facts) -> list[tuple[str, str]]:
    """(what, digest): the code's version, the model, the data and every artifact that is there."""
    rows: list[tuple[str, str]] = []
    if facts.plan is not None:
        rows += [("lorapar version", str(facts.plan.get("version"))), ("planned", str(facts.plan.get("created")))]
    if facts.config is not None:
        model, data = facts.config.model, facts.config.data
        rows += [("base model", model.name), ("base model revision", model.revision or "not set")]
        rows += [("base model digest", model.digest or "not set"), ("data digest", data.digest or "not set")]
    return rows + [(f"{name} (artifact)", digest) for name, digest in facts.digests.items()]
