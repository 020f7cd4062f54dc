"""What an evaluation costs: prompts read once for answers and losses, and models that have answered before.

Run by `make bench`, or by hand: `python -m pytest tests/benchmarks/bench_evaluation.py -s`. The way before is computed
beside it: prompts are read again for the losses, adapters are held in float32, and nobody is remembered. In float32
beginnings are shared and rows that ended left out too, and more is asked for: the target of a first evaluation was
0.75, which bfloat16 misses. Both are computed in what `auto` comes to on this machine.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path
from statistics import fmean, median

import pytest
import torch

from lorapar.adapter import AdapterSettings, attach, save_adapter
from lorapar.basemodel import load_model, load_tokenizer
from lorapar.basemodel.number_format import number_format
from lorapar.config import DataConfig, ModelConfig, PromptConfig
from lorapar.data import load_examples
from lorapar.evaluation import TransformersModel, transformers_engine
from lorapar.prompts import encode_rows, prompt_ids, prompt_messages, rows_of
from lorapar.records import Answer, read_records, write_records
from lorapar.stages.contract import StageCall, run_stage, stage_spec
from lorapar.store import seal
from tests.benchmarks.figures import at_most

ROWS_OF_EACH = 16
TOKENS = 28
"""As many as the demo's models write on average: its base never ends, its adapters do."""
MIX = {"system1_train": 1, "system2_train": 1, "system1_heldout": ROWS_OF_EACH, "system2_heldout": ROWS_OF_EACH}
PROMPTS = {
    "system1": "Name the class: animal, plant, stone or tool.",
    "system2": "Reply with <reasoning>steps</reasoning><answer>number</answer>.",
}


@pytest.fixture(scope="module")
def base() -> ModelConfig:
    return number_format().of_model(ModelConfig(autocast="auto"))


@pytest.fixture(scope="module")
def inputs(base, tmp_path_factory) -> dict[str, Path]:
    """Held-out rows of the demo's kind and three adapters, one of them in production."""
    root = tmp_path_factory.mktemp("inputs")
    rows = load_examples(DataConfig(source="task-mix", task_mix=MIX), 0)
    (root / "heldout").mkdir()
    for system in ("system1", "system2"):
        own = [row for row in rows if row.split == "heldout" and row.known_system == system]
        write_records(root / "heldout" / f"{system}.jsonl", own)
    seal(root / "heldout", "bench.rows")
    for number, name in enumerate(("after_sft", "published", "incumbent/adapter", "later_sft", "later_published")):
        folder = root / name
        folder.mkdir(parents=True)
        save_adapter(moved(attach(load_model(base), AdapterSettings(rank=8), seed=number), number), folder)
        seal(folder, "bench.adapter")
    (root / "incumbent" / "incumbent.json").write_text("{}")
    seal(root / "incumbent", "bench.incumbent")
    return {path.name: path for path in root.iterdir()}


def moved(model, seed: int):
    """The adapter a little away from its start, each in a direction of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(1e-3 * torch.randn(parameter.shape, generator=generator))
    return model


def evaluate(base, inputs, out: Path, cache: Path | None, *, later: bool = False) -> tuple[float, list[Answer]]:
    """Seconds of processor time and the answers of one evaluation of base, two adapters and the one in production."""
    spec = stage_spec("evaluate")
    named = {"after_sft": "later_sft", "published": "later_published"} if later else {}
    settings = {
        "model": base,
        "prompts": PROMPTS,
        "evaluate": {"batch_size": 32, "max_new_tokens": TOKENS},
        "seed": 0,
    }
    for name in ("evaluation", "scratch"):
        (out / name).mkdir(parents=True)
    call = StageCall(
        settings=spec.settings.model_validate(settings),
        inputs={name: (inputs[named.get(name, name)],) for name in spec.inputs},
        outputs={"evaluation": out / "evaluation"},
        scratch=out / "scratch",
        cache=cache,
    )
    started = time.process_time()
    run_stage("evaluate", call)
    seconds = time.process_time() - started
    answers = list(read_records(out / "evaluation" / "answers.jsonl", Answer))
    shutil.rmtree(out)
    return seconds, answers


def before(self, prompts, rows, most):
    """How a batch was answered before: prompts are read for the answers, and again for the losses."""
    started = time.monotonic()
    written = self.generate(prompts, most)
    seconds = time.monotonic() - started
    return written, self.losses(rows), seconds


def test_an_evaluation_reads_prompts_once_and_a_second_one_asks_neither_base_nor_incumbent(
    base, inputs, tmp_path, monkeypatch, figure
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(TransformersModel, "answer", before)
        patch.setattr(transformers_engine, "_narrow_lora", lambda model: None)
        old, expected = evaluate(base, inputs, tmp_path / "before", None)
    first, found = evaluate(base, inputs, tmp_path / "first", tmp_path / "cache")
    second, _ = evaluate(base, inputs, tmp_path / "second", tmp_path / "cache", later=True)
    assert [answer.text for answer in found] == [answer.text for answer in expected]
    what = f"evaluation of 4 models, {2 * ROWS_OF_EACH} rows, {base.dtype}, processor time"
    figure(f"first {what}", old, first, at_most(0.75 if base.dtype == "float32" else 0.85))
    figure(f"second {what}", old, second, at_most(0.45))
    figure(f"second against first {what}", first, second)


def stops_for(written: list[list[int]], tokens: int) -> list[int]:
    """Tokens that would end these answers after so many tokens on average, or a little later."""
    stops: list[int] = []
    candidates = Counter(token for row in written for token in set(row))
    for token, _ in candidates.most_common():
        more = [*stops, token]
        if (
            fmean(next((place + 1 for place, one in enumerate(row) if one in more), len(row)) for row in written)
            >= tokens
        ):
            stops = more
    return stops


def test_rows_that_ended_are_left_out(base, figure) -> None:
    """The demo's adapters end their answers, untrained ones do not: here some tokens that the base writes end them."""
    model, tokenizer = load_model(base), load_tokenizer(base)
    rows = [row for row in load_examples(DataConfig(source="task-mix", task_mix=MIX), 0) if row.split == "heldout"]
    given = PromptConfig(**PROMPTS)
    prompts = [prompt_ids(tokenizer, prompt_messages(row, "system2", given)) for row in rows]
    right = encode_rows(tokenizer, rows_of(rows, "system2"), given, 512)
    asked = TransformersModel(model, tokenizer, autocast=base.autocast == "bfloat16")
    if not asked._leaves_out:
        pytest.skip("products of this processor depend on the rows beside a row")
    asked._stops = stops_for(asked.generate(prompts, 2 * TOKENS), TOKENS)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    answers = {}
    for leaves_out in (False, True) * 4:
        asked._leaves_out = leaves_out
        started = time.process_time()
        answers[leaves_out] = asked.answer(prompts, right, 2 * TOKENS)[:2]
        seconds[leaves_out].append(time.process_time() - started)
    assert answers[True] == answers[False]
    mean_tokens = fmean(map(len, answers[True][0]))
    what = f"{len(rows)} rows that end after {mean_tokens:.0f} of {2 * TOKENS} tokens, {base.dtype}, processor time"
    figure(what, median(seconds[False][1:]), median(seconds[True][1:]), at_most(0.95))
