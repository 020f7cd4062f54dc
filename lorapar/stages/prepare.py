"""prepare: the examples of a run, read from their source, checked, and split into training and held-out rows.

Every row is also seen through the model's chat template, so that what it would lose is known before anything is
computed. The outputs do not depend on that: another model or prompt re-runs this stage, and nothing after it by itself.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from lorapar.config import DataConfig, ModelConfig, PromptConfig
from lorapar.data import LoadedData, data_digest, load_data
from lorapar.errors import IntegrityError
from lorapar.records import write_json, write_records
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec
from lorapar.stages.model_text import row_check

_SHOWN = 20
"""Reasons for leaving rows out that the summary spells out."""


class Settings(StageSettings):
    """Where the examples come from, the seed of the generated ones and of the split, and who will read them how."""

    model: ModelConfig
    data: DataConfig
    prompts: PromptConfig
    seed: int


SPEC = StageSpec(
    name="prepare",
    summary="read the examples, check every row and hold some out",
    settings=Settings,
    outputs=("examples",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write examples.jsonl (both splits) and summary.json."""
    data = call.settings.data
    digest = data_digest(data)
    if data.digest not in (None, digest):
        raise IntegrityError(f"data.source: {data.source} has changed since the run was planned; run it again")
    loaded = load_data(data, call.settings.seed)
    if loaded.left_out:
        call.progress.say(f"left out {len(loaded.left_out)} rows, the first: {loaded.left_out[0]}")
    _check_text(call, loaded)
    folder = call.output("examples")
    write_records(folder / "examples.jsonl", loaded.examples)
    summary = {"source": data.source, "digest": digest, **_summary(loaded)}
    write_json(folder / "summary.json", summary)
    if not summary["splits"]["train"]["with_reference"]:
        call.progress.say(
            "no row has a short reference answer, so RL will have nothing to reward: name data.columns.reference or "
            "reference_pattern, or stop with --until sft"
        )
    rows = {f"rows_{name}": float(summary["splits"][name]["rows"]) for name in ("train", "heldout")}
    return {**rows, "rows_left_out": float(len(loaded.left_out))}


def _check_text(call: StageCall[Settings], loaded: LoadedData) -> None:
    """Say what the model's chat template does to rows; raises BadInputError where a question would be lost."""
    check = row_check(call.settings.model, call.settings.prompts, call.progress)
    if check is not None:
        check.see(loaded.examples)
        for note in check.notes():
            call.progress.say(note)


def _summary(loaded: LoadedData) -> dict[str, Any]:
    splits = {}
    for name in ("train", "heldout"):
        rows = [example for example in loaded.examples if example.split == name]
        systems = Counter(example.known_system for example in rows if example.known_system)
        splits[name] = {
            "rows": len(rows),
            "with_reference": sum(example.reference is not None for example in rows),
            "known_systems": dict(sorted(systems.items())),
        }
    return {"splits": splits, "left_out": len(loaded.left_out), "left_out_first": loaded.left_out[:_SHOWN]}
