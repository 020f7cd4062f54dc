"""What only a late stage needs is missed in the first seconds, by `lorapar plan` and by `lorapar run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from lorapar.basemodel import load_tokenizer
from lorapar.config import ModelConfig, RunConfig, load_config
from lorapar.errors import BadInputError, IntegrityError, StorageError, UnreachableError
from lorapar.local import needs
from lorapar.local.planning import plan_run
from lorapar.local.runner import run_local
from tests.local.test_run import Spoken

VLLM_TEACHER = 'teachers=[{name: t, backend: vllm, template: {style: chat, label_words: {system1: "a", system2: "b"}}}]'


@pytest.fixture
def without(monkeypatch):
    """Make packages ones that cannot be imported."""

    def forget(*packages: str) -> None:
        for package in packages:
            monkeypatch.setitem(sys.modules, package, None)

    return forget


@pytest.fixture
def asks_gsm8k(tmp_path) -> RunConfig:
    """The tiny preset with a benchmark."""
    rows = tmp_path / "gsm8k.jsonl"
    rows.write_text(json.dumps({"question": "What is 2 plus 3?", "answer": "2+3=5\n#### 5"}) + "\n")
    return load_config(preset="tiny", overrides=[f"evaluate.benchmarks=[{{task: gsm8k, data: {rows}}}]"])


def plan(config: RunConfig, out: Path, until: str | None = None) -> None:
    plan_run(config, out, until=until, fresh=False)


def test_benchmarks_without_lm_eval_end_a_plan_and_a_run_before_anything_is_trained(
    without, asks_gsm8k, tmp_path
) -> None:
    without("lm_eval")
    missing = r"evaluate.benchmarks \(gsm8k\) needs lm_eval, which is not installed here; pip install 'lorapar\[train,"
    with pytest.raises(BadInputError, match=missing):
        plan(asks_gsm8k, tmp_path / "run")
    spoken = Spoken()
    with pytest.raises(BadInputError, match=missing):
        run_local(asks_gsm8k, tmp_path / "run", spoken)
    assert spoken.ran() == {"plan"}


@pytest.mark.parametrize("variable", ["LORAPAR_SIGNING_KEY", "LORAPAR_TRUSTED_KEYS"])
def test_a_key_that_publishing_could_not_use_ends_a_run_before_its_first_stage(variable, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "nowhere.pem"))
    spoken = Spoken()
    with pytest.raises(BadInputError, match=r"nowhere\.pem.* cannot be read"):
        run_local(load_config(preset="tiny"), tmp_path / "run", spoken)
    assert not spoken.ran()


@pytest.mark.parametrize(
    ("override", "who"),
    [
        ("evaluate.backend=vllm", "evaluate.backend vllm"),
        ("rl.rollouts=vllm", "rl.rollouts vllm"),
        (VLLM_TEACHER, "teacher 't' with backend"),
    ],
)
def test_so_does_a_backend_without_vllm(without, tmp_path, override, who) -> None:
    without("vllm")
    config = load_config(preset="tiny", overrides=[override])
    with pytest.raises(BadInputError, match=f"{who}.*needs vllm, which is not installed here"):
        plan(config, tmp_path / "run")
    spoken = Spoken()
    with pytest.raises(BadInputError, match=f"{who}.*needs vllm"):
        run_local(config, tmp_path / "run", spoken)
    assert spoken.ran() == {"plan"}


def test_what_does_not_run_here_needs_nothing(without, asks_gsm8k, tiny_run, tmp_path) -> None:
    without("lm_eval", "vllm")
    plan(asks_gsm8k, tmp_path / "run", until="rl")
    plan(load_config(preset="tiny"), tiny_run)
    with pytest.raises(BadInputError, match="lm_eval"):
        plan(asks_gsm8k, tiny_run)
    without("torch")  # a client, which plans what a cluster runs
    plan(asks_gsm8k, tiny_run)


def test_a_run_whose_stages_are_all_reused_needs_nothing(without, tiny_copy) -> None:
    without("lm_eval", "vllm")
    spoken = Spoken()
    run_local(load_config(preset="tiny"), tiny_copy, spoken)
    assert spoken.ran() == {"plan", "publish", "gate", "report"}


def test_plan_asks_a_registry_in_s3_as_run_does(tmp_path, monkeypatch) -> None:
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:1", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    config = load_config(preset="tiny", overrides=["registry.address=s3://bucket/registry"])
    for ask in (lambda: plan(config, tmp_path / "run"), lambda: run_local(config, tmp_path / "run", Spoken())):
        with pytest.raises(UnreachableError, match="s3://bucket/registry"):
            ask()


def test_a_layout_that_the_model_lacks_is_missed_before_votes_are_asked_for(make_family, tmp_path) -> None:
    config = load_config(
        preset="tiny",
        overrides=[f"model.name={model_folder(make_family('gpt2'), tmp_path)}", "adapter.layout=[q_proj]"],
    )
    refused = r"GPT2LMHeadModel has no linear module q_proj; .*adapter\.layout: \[c_attn, c_fc, c_proj\]"
    with pytest.raises(BadInputError, match=refused):
        plan(config, tmp_path / "run")
    spoken = Spoken()
    with pytest.raises(BadInputError, match=refused):
        run_local(config, tmp_path / "run", spoken)
    assert spoken.ran() == {"plan"}


def test_rows_longer_than_the_model_reads_are_missed_too(make_family, tmp_path) -> None:
    name = model_folder(make_family("gpt2"), tmp_path)
    config = load_config(preset="tiny", overrides=[f"model.name={name}", "sft.max_length=513"])
    with pytest.raises(BadInputError, match=r"sft\.max_length is 513 tokens, and .* reads at most 512 at once"):
        plan(config, tmp_path / "run")


@pytest.mark.real
def test_what_a_run_needs_is_read_from_where_its_model_lies(monkeypatch, tmp_path) -> None:
    """The demo's model comes in a wheel: settings name it as the hub does, and the hub is not asked."""

    def asked(config: ModelConfig) -> Path:
        raise AssertionError(f"the hub was asked for {config.name}")

    monkeypatch.setattr("lorapar.basemodel.hub.config_file", asked)
    spoken = Spoken()
    run_local(load_config(preset="demo"), tmp_path / "run", spoken, until="prepare")
    assert spoken.ran() == {"plan", "prepare"}


def model_folder(model, root: Path) -> Path:
    """The model with the tokenizer of `builtin:tiny`, as a folder that settings can name."""
    model.save_pretrained(root / "model")
    load_tokenizer(ModelConfig(name="builtin:tiny")).save_pretrained(root / "model")
    return root / "model"


@pytest.mark.parametrize("variable", ["LORAPAR_SIGNING_KEY", "LORAPAR_TRUSTED_KEYS"])
def test_a_plan_reads_the_keys_too(variable, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "nowhere.pem"))
    with pytest.raises(BadInputError, match=r"nowhere\.pem.* cannot be read"):
        plan(load_config(preset="tiny"), tmp_path / "run")


@pytest.mark.parametrize("setting", ["registry.address", "store.address"])
def test_a_plan_names_a_place_that_is_no_folder_and_makes_none(setting, tmp_path) -> None:
    (tmp_path / "file").write_text("here already")
    with pytest.raises(StorageError, match=rf"{setting}: .*file is a file, not a folder"):
        plan(load_config(preset="tiny", overrides=[f"{setting}={tmp_path}/file/below"]), tmp_path / "run")
    plan(load_config(preset="tiny", overrides=[f"{setting}={tmp_path}/new/below"]), tmp_path / "run")
    assert not (tmp_path / "new").exists()


def test_code_that_could_not_be_confined_ends_a_plan_and_a_run_before_anything_is_trained(
    monkeypatch, tmp_path
) -> None:
    def refuse(policy: str) -> None:
        raise BadInputError(f"a program could open sockets, and execute.sandbox is {policy}")

    monkeypatch.setattr(needs, "_try_sandbox", refuse)
    rows = tmp_path / "code.jsonl"
    problem = {"task_id": "t", "prompt": "def f():\n", "test": "def check(f):\n    f()\n", "entry_point": "f"}
    rows.write_text(json.dumps(problem))
    config = load_config(preset="tiny", overrides=[f"evaluate.benchmarks=[{{task: humaneval, data: {rows}}}]"])
    with pytest.raises(BadInputError, match="could open sockets"):
        plan(config, tmp_path / "run")
    spoken = Spoken()
    with pytest.raises(BadInputError, match="could open sockets"):
        run_local(config, tmp_path / "run", spoken)
    assert spoken.ran() == {"plan"}
    plan(config, tmp_path / "run", until="evaluate")


def test_rows_whose_own_answers_fail_their_tests_are_reported_by_the_plan(tmp_path) -> None:
    rows = [
        {
            "question": f"Write add{n}, which adds {n}.",
            "answer": f"def add{n}(a):\n    return a {'-' if n == 3 else '+'} {n}",
            "tests": [f"assert add{n}(1) == {n + 1}"],
        }
        for n in range(1, 7)
    ]
    (tmp_path / "code.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [f"data.source={tmp_path}/code.jsonl", "data.heldout=1", "rl.rewards={passes_tests: 1}"]
    config = load_config(preset="tiny", overrides=[*settings, "execute.sandbox=best_effort"])
    (line,) = [str(one) for one in plan_run(config, tmp_path / "run", until=None, fresh=False).lines if "tests" in one]
    assert "1 of the first 6 rows do not pass their tests by their own answer" in line
    assert "'Write add3, which adds 3.'" in line


def test_the_plan_says_where_completions_come_from_and_asks_for_the_key_of_a_server(tmp_path, monkeypatch) -> None:
    server = ["rl.rollouts=server", "rl.server.endpoint=http://rollouts:8000/v1", "rl.server.openai.api_key_env=R_KEY"]
    config = load_config(preset="tiny", overrides=server)
    with pytest.raises(BadInputError, match=r"rl\.server: the environment variable R_KEY"):
        plan(config, tmp_path / "run")
    monkeypatch.setenv("R_KEY", "secret-of-the-server")
    said = "\n".join(map(str, plan_run(config, tmp_path / "run", until=None, fresh=False).lines))
    assert "samples     rl asks http://rollouts:8000/v1, a vLLM of its own" in said
    assert "--max-lora-rank 16" in said  # with the frozen half
    assert "secret-of-the-server" not in said


def test_a_rank_that_vllm_does_not_serve_is_reported_by_the_plan(tmp_path) -> None:
    """With the frozen half that keeps the start unchanged, files hold twice the rank."""
    for rank, message in ((256, False), (300, True)):
        config = load_config(preset="tiny", overrides=[f"adapter.rank={rank}"])
        text = "".join(map(str, plan_run(config, tmp_path / "run", until=None, fresh=False).lines))
        assert ("its rank in PEFT's files is 600, and vLLM serves no rank above 512" in text) is message


def test_a_rank_that_vllm_does_not_take_is_refused_where_it_samples(tmp_path) -> None:
    server = ["rl.rollouts=server", "rl.server.endpoint=http://rollouts:8000/v1", "adapter.rank=300"]
    with pytest.raises(BadInputError, match=r"rl\.rollouts: the adapter has rank 600 .* none above 512; set"):
        plan(load_config(preset="tiny", overrides=server), tmp_path / "run")


def test_an_earlier_adapter_of_other_sizes_is_refused_before_votes_are_asked_for(make_family, tmp_path) -> None:
    """One that plain PEFT made on another model, whose base only its own words name."""
    other = get_peft_model(make_family("gpt2"), LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    other.save_pretrained(tmp_path / "other")
    base = model_folder(make_family("llama"), tmp_path)
    config = load_config(preset="tiny", overrides=[f"model.name={base}", f"model.adapter={tmp_path}/other"])
    spoken = Spoken()
    for call in (lambda: plan(config, tmp_path / "run"), lambda: run_local(config, tmp_path / "run", spoken)):
        with pytest.raises(IntegrityError, match=r"has LoRA on 'transformer\.h\.0\.attn\.c_attn' .*no such module"):
            call()
    assert spoken.ran() == {"plan"}


def test_a_judge_whose_key_is_missing_ends_a_plan_and_a_run_before_anything_is_trained(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("JUDGES_KEY", raising=False)
    judge = "{judge: {endpoint: 'http://127.0.0.1:9/v1', model: m, openai: {api_key_env: JUDGES_KEY}}}"
    config = load_config(preset="tiny", overrides=[f"rl.rewards={{exact_answer: 1, quality: {judge}}}"])
    for start in (plan, lambda config, out: run_local(config, out, Spoken())):
        with pytest.raises(BadInputError, match=r"^rl\.rewards: judge 'quality': the environment variable JUDGES_KEY"):
            start(config, tmp_path / "out")
    plan(config, tmp_path / "out", until="sft")  # nobody is asked yet
    measured = load_config(preset="tiny", overrides=[f"evaluate.judges={{quality: {judge}}}"])
    with pytest.raises(BadInputError, match=r"^evaluate\.judges: judge 'quality': the environment variable JUDGES_KEY"):
        plan(measured, tmp_path / "out")
