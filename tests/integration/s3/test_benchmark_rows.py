"""Rows of a benchmark from a real S3 server, gzipped and plain; what is not there is named."""

from __future__ import annotations

import gzip
import json

import pytest

from lorapar.config import BenchmarkConfig, EvaluateConfig
from lorapar.errors import BadInputError
from lorapar.evaluation.benchmarks import load_rows, resolve_benchmarks
from lorapar.store import open_store

ROWS = "".join(json.dumps({"question": f"{n}+2?", "answer": f"#### {n + 2}"}) + "\n" for n in range(5)).encode()


def test_rows_and_worked_examples_come_from_a_bucket(s3_address) -> None:
    store = open_store(s3_address)
    store.write("test.jsonl.gz", gzip.compress(ROWS))
    store.write("train.jsonl", b'{"question": "9+9?", "answer": "#### 18"}\n')
    config = BenchmarkConfig(
        task="gsm8k",
        few_shot=1,
        data=f"{s3_address}/test.jsonl.gz",
        few_shot_data=f"{s3_address}/train.jsonl",
    )
    (planned,) = resolve_benchmarks(EvaluateConfig(benchmarks=(config,))).benchmarks
    loaded = load_rows(planned, seed=0)
    assert (len(loaded.rows), loaded.shots[0]["question"]) == (5, "9+9?")
    store.write("train.jsonl", b'{"question": "8+8?", "answer": "#### 16"}\n')
    with pytest.raises(BadInputError, match="are not those that plan saw"):
        load_rows(planned, seed=0)


def test_an_object_that_is_not_there_is_named(s3_address) -> None:
    open_store(s3_address).write("other.jsonl", ROWS)
    config = BenchmarkConfig(task="gsm8k", data=f"{s3_address}/nothing.jsonl")
    with pytest.raises(BadInputError, match=r"evaluate\.benchmarks: there is no object s3://.*/nothing\.jsonl"):
        load_rows(config, seed=0)
