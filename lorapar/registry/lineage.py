"""Where an adapter comes from: everything needed to say why it is as it is, and to make it again.

Holds no times, no address of the run and nothing measured while it was verified, so that the same run made twice, on
whatever machine, gives the same lineage; those are in the claim of its version (`lorapar.registry.versions.Claim`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from lorapar.config import ModelConfig
from lorapar.records import Label, read_json, read_records
from lorapar.store import file_sha256, read_manifest

LINEAGE_FILE = "lineage.json"
_PARTITION_METRICS = (
    *("theta", "alpha", "beta", "elements", "jaccard"),
    *("system1_active_fraction", "system2_active_fraction", "sft_active_fraction", "rl_active_fraction"),
)
_TRAINING_METRICS = (
    *("steps", "elements", "active_elements", "moved_elements", "reward_first", "reward_last"),
    *("kl_first", "kl_last", "reference", "reward_weights", "base_weights_sha256", "versions"),
)


class Lineage(BaseModel):
    """lineage.json beside a published adapter."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    schema_version: int = 1
    name: str
    base: dict[str, Any]
    """Public name, revision and digest of the base model, its number format and, where it was, how it was quantised."""
    data: dict[str, Any]
    """Digest of the examples, and where they came from."""
    teachers: dict[str, dict[str, Any]]
    """By name: model, template digest and so on of each voter."""
    votes: tuple[str, ...]
    """Digests of the votes."""
    labels: dict[str, Any]
    """Digest of the labels, how many rows each system got, and how many by chance or by the data instead of votes."""
    partition: dict[str, Any]
    """Digest of the partition and its metrics."""
    training: dict[str, Any]
    """Digest of the trained weights and what RL, the last stage of training, tells of itself."""
    settings: dict[str, Any]
    """Every setting that decides what the adapter is, as `lorapar run --config` takes them."""
    code: dict[str, Any]
    """Version of the package, and digests of the code of the stages that made the adapter."""
    serving: dict[str, Any]
    """LoRA rank, what vLLM needs for --max-lora-rank and, where the base's files do not say it, what ends an answer
    (`stop_tokens`) and the file of the chat template (`chat_template`)."""
    files: dict[str, str]
    """sha256 of the files a program loads."""
    parent: dict[str, Any] | None = None
    """The adapter it goes on from: its name with version or commit, its digest, whether its own elements were trained
    further (`continued`) or it is held frozen, its rank, and the rank that was trained here; None for a fresh one."""
    compacted: dict[str, Any] | None = None
    """The version it was packed from into a smaller rank (`adapters compact`): its name, digest and rank, and the
    largest relative error of a module; None where it was published as it was trained."""

    picked: dict[str, Any] | None = None
    """The step whose adapter this is, of how many, and the metrics of every adapter on the development rows
    (`publish.pick: best`); None where the last one is published untried."""

    def content(self) -> dict[str, Any]:
        """What lineage.json holds: nothing of a parent, a packing or a pick where there was none."""
        absent = {key for key in ("parent", "compacted", "picked") if not getattr(self, key)}
        return self.model_dump(mode="json", exclude=absent)


def base_facts(model: ModelConfig) -> dict[str, Any]:
    """What names the base model, and how it was held where it was quantised."""
    text = model.quantization_text
    quantized = {} if text is None else {"quantization": text}
    return {"name": model.name, "revision": model.revision, "digest": model.digest, "dtype": model.dtype, **quantized}


def parent_facts(model: ModelConfig, trained_rank: int) -> dict[str, Any] | None:
    """What names the adapter that a run goes on from; `trained_rank` is what this run trains."""
    source = model.adapter_source
    if model.adapter is None or source is None:
        return None
    return {
        "adapter": model.adapter_text,
        "digest": source.digest,
        "continued": model.continue_,
        "rank": source.rank,
        "trained_rank": trained_rank,
    }


def data_facts(folder: Path) -> dict[str, Any]:
    """Digest of the examples; source and row counts as the prepare stage wrote them down.

    Where rows came of a capture, its days, and a digest of each request: `lorapar capture delete` looks for them.
    """
    summary = _summary(folder)
    captures = {"captures": summary["captures"]} if summary.get("captures") else {}
    return {
        "digest": read_manifest(folder).digest,
        "source": summary.get("source"),
        "source_digest": summary.get("digest"),
        "splits": summary.get("splits"),
        **captures,
    }


def teacher_facts(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """By name, what the vote stages wrote about each teacher."""
    return {name: about for folder in folders for name, about in _summary(folder).get("teachers", {}).items()}


def digests(folders: Sequence[Path]) -> tuple[str, ...]:
    """Digest of each artifact."""
    return tuple(read_manifest(folder).digest for folder in folders)


def label_facts(folder: Path) -> dict[str, Any]:
    """Digest of the labels, and rows by what they came to."""
    counts: Counter[str] = Counter()
    given: Counter[str] = Counter()
    for label in read_records(folder / "labels.jsonl", Label):
        counts[label.system or "held_out"] += 1
        given.update([label.given] if label.given else [])
    other = {"given": dict(given)} if given else {}
    return {"digest": read_manifest(folder).digest, "rows": dict(sorted(counts.items())), **other}


def partition_facts(folder: Path) -> dict[str, Any]:
    """Digest and main metrics of the partition."""
    summary = _summary(folder)
    named = [f"{one}_{key}_fraction" for one in summary.get("systems", ()) for key in ("active", "trained")]
    names = (*_PARTITION_METRICS, *named, *(["jaccards"] if named else []))
    return {"digest": read_manifest(folder).digest, **_chosen(summary, names)}


def training_facts(folder: Path, weights: str) -> dict[str, Any]:
    """sha256 of the trained weights, and RL's own metrics; times are left out."""
    return {"weights_sha256": file_sha256(folder / weights), **_chosen(_summary(folder), _TRAINING_METRICS)}


def base_weights(folder: Path) -> str | None:
    """Identity of the base's weights that an adapter in a folder was trained on; None where nothing says so."""
    found: str | None = _summary(folder).get("base_weights_sha256")
    return found


def _summary(folder: Path) -> Mapping[str, Any]:
    path = folder / "summary.json"
    found: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    return found


def _chosen(summary: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: summary[key] for key in keys if summary.get(key) is not None}
