"""Settings come from a preset or a file, with --set on top; every mistake is one line that names the key."""

import re

import pytest
import yaml

from lorapar.config import EngineOptions, RunConfig, dump_config, load_config, parse_settings, preset_names
from lorapar.errors import BadInputError
from lorapar.local.calls import rollouts_text


def test_set_goes_on_top_of_a_preset():
    config = load_config(preset="tiny", overrides=["rl.learning_rate=2e-4", "partition.theta=0.5", "name=mine"])
    assert config.rl.learning_rate == 2e-4
    assert config.partition.theta == 0.5
    assert config.name == "mine"


def test_setting_the_weight_of_one_reward_keeps_the_others():
    assert load_config(overrides=["rl.rewards.exact_answer=5"]).rl.rewards == {
        **RunConfig().rl.rewards,
        "exact_answer": 5.0,
    }
    assert RunConfig().rl.rewards["exact_answer"] == 2.0


def test_rewards_that_a_file_names_stand_alone(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("rl: {rewards: {exact_answer: 1.0}}", encoding="utf-8")
    config = load_config(file=file, overrides=["rl.rewards.tag_count=0.5"])
    assert config.rl.rewards == {"exact_answer": 1.0, "tag_count": 0.5}


def test_the_defaults_are_the_papers():
    config = RunConfig()
    assert (config.adapter.rank, config.adapter.alpha, config.adapter.dropout) == (8, 64, 0.05)
    assert (config.partition.theta, config.partition.alpha, config.partition.beta) == (0.9, 1, 1)
    assert (config.sft.learning_rate, config.sft.warmup_ratio, config.sft.gradient_accumulation) == (2e-4, 0.03, 32)
    assert (config.rl.learning_rate, config.rl.num_generations, config.rl.max_grad_norm) == (5e-6, 8, 0.1)


def test_a_setting_that_came_later_is_not_written_where_it_is_not_used():
    """So digests of runs that do not use it stay as they were."""
    assert {"kind", "virtual_tokens"}.isdisjoint(RunConfig().adapter.model_dump())
    assert load_config(overrides=["adapter.kind=prompt"]).adapter.model_dump()["kind"] == "prompt"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter.kind=ia3", "adapter.rank=4"], "rank: does nothing where kind is ia3 (only lora, rslora, dora)"),
        (["adapter.kind=dora", "adapter.init=pissa"], "init: does nothing where kind is dora (only lora, rslora)"),
        (["adapter.virtual_tokens=8"], "virtual_tokens: does nothing where kind is lora (only prompt, prefix)"),
        (["adapter.kind=dora", "partition.theta=0.5"], "partition.theta is 0.5, and adapter.kind dora is trained as a"),
        (
            ["adapter.kind=ia3", "partition.mask=sft"],
            "partition.mask is sft, and adapter.kind ia3 is trained as a whole",
        ),
        (["adapter.kind=prompt", "rl.score_again=true"], "rl.score_again is True, and adapter.kind prompt is trained"),
        (["adapter.kind=dora", "rl.rollouts=vllm"], "rl.rollouts is vllm, and adapter.kind dora is not the plain LoRA"),
        (["adapter.kind=prefix", "sft.gradient_checkpointing=true"], "kind prefix cannot recompute its cache"),
        (["adapter.kind=ia3", "model.adapter=./mine"], "model.adapter is ./mine, and adapter.kind ia3 goes on from no"),
        (["adapter.kind=p-tuning"], "adapter.kind"),
        (
            ["partition.choose={rl: gradient}"],
            "partition.choose is gradient, which scoring keeps only where score.also",
        ),
        (
            ["partition.choose={rl: random}", "phases=[{system: system2, method: sft}, {system: system2, method: rl}]"],
            "partition.choose: both SFT and RL train system2",
        ),
    ],
)
def test_what_a_kind_of_adapter_or_a_choice_cannot_take_is_reported_in_one_line(overrides, message):
    with pytest.raises(BadInputError, match=re.escape(message)) as failed:
        load_config(overrides=overrides)
    assert "\n" not in str(failed.value)


def test_a_kind_that_is_not_divided_may_say_that_theta_is_1():
    assert load_config(overrides=["adapter.kind=dora", "partition.theta=1.0"]).partition.theta == 1


def test_written_settings_read_back_equal(tmp_path):
    config = load_config(preset="tiny", overrides=["rl.kl_beta=0.02"])
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(file=file) == config


@pytest.mark.parametrize("text", ["", "\n\n", "# model:\n#   name: mine\n"])
def test_a_file_without_a_setting_is_refused_and_not_taken_for_the_defaults(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=r"config\.yaml has no settings in it; .* write {} into it"):
        load_config(file=file)
    file.write_text("{}\n", encoding="utf-8")
    assert load_config(file=file) == RunConfig()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("partition.theta=1.5", "--set partition.theta: must lie in (0, 1] (got 1.5)"),
        ("partition.theta=0", "--set partition.theta: must lie in (0, 1] (got 0)"),
        ("partition.theta=.nan", "partition.theta: must lie in (0, 1] (got nan)"),
        ("partition.theta=high", "partition.theta: must be a number in (0, 1] (got 'high')"),
        ("adapter.dropout=1", "adapter.dropout: must lie in [0, 1) (got 1)"),
        ("adapter.rank=0", "adapter.rank: must be at least 1 (got 0)"),
        ("adapter.rank=2.5", "adapter.rank: must be a whole number (got 2.5)"),
        ("teachers=[{name: a, batch_size: 0}]", "teachers.0.batch_size: must be at least 1 (got 0)"),
        ("rl.learning_rat=1e-4", "did you mean 'learning_rate'?"),
        ("partitoin.theta=0.9", "did you mean 'partition'?"),
        ("sft.rows=everything", "sft.rows"),
        ("rl.rewards={exact_anwser: 1}", "did you mean 'exact_answer'?"),
        ("rl.rewards={exact_answer: 0}", "every weight is 0"),
        ("rl.adam_beta1=1.0", "rl.adam_beta1"),
        ("rl.adam_beta2=1.0", "rl.adam_beta2"),
        ("rl.num_generations=7", "multiple of num_generations"),
        ("teachers=[{name: a}, {name: a}]", "'a' is used twice"),
        ("voting.quorum=9", "voting.quorum is 9"),
        ("name=../up", "name"),
        ("theta", "write it as section.key=value"),
        ("name.x=1", "not a section"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(override, message):
    with pytest.raises(BadInputError) as caught:
        load_config(preset="tiny", overrides=[override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(BadInputError, match="did you mean 'tiny'"):
        load_config(preset="tinny")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"model: [", "line 1"), (b"- a\n", "expected sections"), (b"name: \xff\n", "not UTF-8")],
)
def test_a_broken_file_is_one_line_that_names_it(tmp_path, content, message):
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        load_config(file=file)
    assert message in str(caught.value)
    assert "settings.yaml" in str(caught.value)


def test_a_missing_file_and_two_sources_are_refused(tmp_path):
    with pytest.raises(BadInputError, match="there is no file"):
        load_config(file=tmp_path / "none.yaml")
    with pytest.raises(BadInputError, match="exclude each other"):
        load_config(preset="tiny", file=tmp_path / "none.yaml")


def test_every_preset_says_in_its_first_line_what_it_is_for():
    from lorapar.config import preset_text

    for name in preset_names():
        assert preset_text(name).startswith("# "), name


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"batch_size": 4, "backend": "vllm"}, "batch_size does nothing with backend vllm, only with transformers"),
        ({"vllm": {"max_model_len": 9}}, "vllm does nothing with backend transformers"),
        ({"endpoint": "http://a/v1"}, "endpoint does nothing with backend transformers"),
        (
            {"backend": "openai", "endpoint": "http://a/v1", "model": "m", "dtype": "float16"},
            "dtype does nothing with backend openai, only with transformers and vllm",
        ),
        ({"backend": "openai", "model": "m"}, "backend openai needs endpoint"),
        ({"backend": "openai", "endpoint": "a:8000", "model": "m"}, "backend openai needs endpoint, the http address"),
        ({"backend": "openai", "endpoint": "http://me:key@a/v1", "model": "m"}, "must not hold a user or password"),
        ({"backend": "openai", "endpoint": "http://a/v1"}, "backend openai needs model, the name its endpoint serves"),
        ({"backend": "openai", "endpoint": "http://a:b/v1", "model": "m"}, "backend openai needs endpoint"),
        ({"backend": "openai", "endpoint": "http://a/v1?key=x", "model": "m"}, "name its environment variable in"),
        ({"backend": "vllm", "vllm": {"concurrency": 3}}, "vllm.concurrency: no such key"),
    ],
    ids=str,
)
def test_an_option_of_another_backend_is_an_error(tmp_path, teacher, message) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"teachers": [{"name": "t", **teacher}]}), encoding="utf-8")
    with pytest.raises(BadInputError) as caught:
        load_config(file=file)
    assert message in str(caught.value)


@pytest.mark.parametrize(("section", "switch"), [("rl", "rollouts"), ("evaluate", "backend")])
def test_options_of_an_engine_that_is_not_asked_for_are_an_error(section, switch) -> None:
    options = f"{section}.vllm.max_model_len=512"
    with pytest.raises(BadInputError, match=f"{section}: vllm: does nothing where {switch} is transformers"):
        load_config(overrides=[options])
    config = load_config(overrides=[options, f"{section}.{switch}=vllm"])
    assert getattr(config, section).vllm.max_model_len == 512


SERVER = ["rl.rollouts=server", "rl.server.endpoint=http://a:8000/v1"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rl.rollouts=server"], "rollouts is server, so server has to say where it is: server.endpoint"),
        (SERVER[1:], "server: does nothing where rollouts is transformers; leave it out or set rollouts to server"),
        ([*SERVER, "rl.vllm.sleep=false"], "vllm: does nothing where rollouts is server"),
        ([*SERVER, "rl.server.endpoint=a:8000"], "rl.server needs endpoint, the http address"),
        ([*SERVER, "rl.server.openai.max_tokens=4"], "rl.server.openai.max_tokens: no such key"),
        ([*SERVER, "rl.server.openai.extra_body={top_k: 3}"], "rl.server.openai.extra_body: no such key"),
        ([*SERVER, "rl.server.folder=s3://a/b"], "folder: s3://a/b is no folder that the server's vLLM could read"),
        ([*SERVER, "model.quantization=nf4"], "rl.rollouts is server, which loads the full base"),
        ([*SERVER, "adapter.kind=dora"], "rl.rollouts is server, and adapter.kind dora is not the plain LoRA"),
        ([*SERVER, "rl.vllm_importance_sampling_correction=false"], "max_rollout_difference: without"),
    ],
)
def test_a_server_of_rollouts_is_named_where_it_is_asked(overrides, said) -> None:
    with pytest.raises(BadInputError) as caught:
        load_config(overrides=overrides)
    assert said in str(caught.value)


@pytest.mark.parametrize("given", [[], ["rl.vllm={}"], ["rl.vllm.sleep=false"]])
def test_an_engine_of_rollouts_takes_the_same_share_however_its_section_is_written(given) -> None:
    config = load_config(overrides=["rl.rollouts=vllm", *given])
    assert (config.rl.vllm or EngineOptions()).gpu_memory_utilization == 0.3
    assert rollouts_text(config)[0].startswith("rl: vLLM takes 30% of each GPU's memory")


def test_settings_of_rollouts_that_are_not_set_are_not_written() -> None:
    assert "server" not in load_config().rl.model_dump()
    assert "sleep" not in load_config(overrides=["rl.rollouts=vllm", "rl.vllm={}"]).rl.model_dump()["vllm"]
    server = load_config(overrides=[*SERVER, "sharding=fsdp2", "rl.temperature=0.5"]).rl
    assert type(server).model_validate(server.model_dump()) == server


def test_more_teachers_cannot_be_needed_than_there_are() -> None:
    with pytest.raises(BadInputError, match=r"voting.min_teachers is 2, but there are only 1 teachers"):
        load_config(overrides=["voting.min_teachers=2"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gate.measures=[system3]", r"gate\.measures: 'system3' is not evaluated .did you mean 'system[12]'"),
        ("gate.max_loss_of={systm1: 0.1}", r"gate\.max_loss_of: 'systm1' is not evaluated .*'system1'"),
        ("gate.measures=[gsm8k]", r"gate\.measures: 'gsm8k' is not evaluated; .*evaluate\.benchmarks"),
    ],
)
def test_a_measure_that_nothing_yields_is_refused_before_anything_starts(override, message) -> None:
    with pytest.raises(BadInputError, match=message):
        load_config(preset="tiny", overrides=[override])


def test_a_benchmark_that_is_asked_is_a_measure() -> None:
    overrides = ["evaluate.benchmarks=[{task: gsm8k}]", "gate.measures=[system2, gsm8k]"]
    assert load_config(preset="tiny", overrides=overrides).gate.measures == ("system2", "gsm8k")


@pytest.mark.parametrize(
    ("override", "message"),
    [("partition=0.5", "partition: is a section: give its settings"), ("teachers=[]", "teachers: needs at least 1")],
)
def test_a_value_of_the_wrong_shape_is_refused_in_plain_words(override, message) -> None:
    with pytest.raises(BadInputError, match=message):
        load_config(preset="tiny", overrides=[override])


def test_a_key_that_is_there_twice_is_named_with_its_line(tmp_path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("sft:\n  epochs: 1\n  epochs: 2\n")
    with pytest.raises(BadInputError, match=r"line 3: the key 'epochs' is there twice"):
        load_config(file=file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sft:\n  a: &a [*a]", r"settings, line 2: what this anchor \(&\) names contains itself"),
        ("sft: &a {b: {c: *a}}", r"settings, line 1: what this anchor"),
        ("sft: &a {? [*a] : 1}", r"settings, line 1: what this anchor"),
        ("sft: " + 2000 * "[" + 2000 * "]", "settings: is nested too deeply"),
        ("sft: {a: 2026-13-45}", "settings: not YAML: month must be in 1..12"),
    ],
)
def test_what_yaml_allows_but_no_settings_can_be_is_one_line(text, told):
    with pytest.raises(BadInputError, match=told):
        parse_settings(text, "settings")


def test_an_option_that_contains_itself_is_one_line():
    with pytest.raises(BadInputError, match=r"--set rl.rewards, line 1: what this anchor"):
        load_config(overrides=["rl.rewards=&a [*a]"])
    with pytest.raises(BadInputError, match=r"is nested too deeply"):
        load_config(overrides=["rl.rewards=" + 2000 * "["])


def test_a_value_that_many_aliases_share_is_looked_at_once():
    """Thirty doublings would be a thousand million looks."""
    lines = ["a0: &a0 [1]", *(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]" for n in range(30))]
    assert len(parse_settings("\n".join(lines), "settings")) == 31


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"headers": {"X-Api-Key": "abc"}}, "headers: X-Api-Key looks like a secret"),
        ({"headers": {"X Tenant": "a"}}, "'X Tenant' cannot be the name of a header"),
        ({"headers": {"X-Tenant": "a\nb"}}, "the value of X-Tenant must be printable ASCII in one line"),
        ({"headers": {"Content-Type": "text/plain"}}, "Content-Type is set by lorapar itself"),
        ({"headers": {"x-tenant": "a"}, "headers_env": {"X-Tenant": "A"}}, "is there twice"),
        ({"headers_env": {"Authorization": "A"}, "api_key_env": "B"}, "Authorization is what the key is sent in"),
        ({"api_key_env": "A", "api_key_file": "/b"}, "api_key_env and api_key_file exclude each other"),
        ({"extra_body": {"stream": True}}, "extra_body: stream is lorapar's own"),
        ({"extra_body": {"top_p": float("nan")}}, "extra_body: it must be JSON"),
        ({"max_tokens": 0}, "must be at least 1"),
    ],
    ids=str,
)
def test_what_an_endpoint_cannot_be_sent_is_an_error(options, message) -> None:
    teacher = {"name": "t", "backend": "openai", "endpoint": "http://a/v1", "model": "m", "openai": options}
    with pytest.raises(BadInputError) as caught:
        load_config(overrides=[f"teachers=[{yaml.safe_dump(teacher, default_flow_style=True, width=999).strip()}]"])
    assert message in str(caught.value)


@pytest.mark.parametrize("option", ["api_key_env", "headers_env"])
def test_a_secret_in_the_place_of_its_variable_is_not_shown(option) -> None:
    value = "my-secret-value" if option == "api_key_env" else "{X-Tenant: my-secret-value}"
    with pytest.raises(BadInputError) as caught:
        load_config(
            overrides=[
                "teachers=[{name: t, backend: openai, endpoint: 'http://a', model: m, "
                f"openai: {{{option}: {value}}}}}]"
            ]
        )
    assert "must be the name of an environment variable" in str(caught.value)
    assert "my-secret-value" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "teachers=[{name: a, openai: {headerz: {}}}]",
            "teachers.0.openai.headerz: no such key (did you mean 'headers'?)",
        ),
        ("teachers=[{nmae: a}]", "teachers.0.nmae: no such key (did you mean 'name'?)"),
        ("evaluate.benchmarks=[{taks: a}]", "evaluate.benchmarks.0.taks: no such key (did you mean 'task'?)"),
        ("teachers=[]", "teachers: needs at least 1"),
    ],
)
def test_one_mistake_is_one_complaint(override, message) -> None:
    with pytest.raises(BadInputError) as caught:
        load_config(overrides=[override])
    complaints = str(caught.value).removeprefix("--set ").split("; ")
    assert complaints[0] == message
    assert [one for one in complaints if "at least 1" in one or ".name:" in one or ".task:" in one] == (
        [message] if override == "teachers=[]" else []
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("VQ", "QV"),
        ("QKVOGUD", "QKVOGUD"),
        ("all-linear", "all-linear"),
        ("[q_proj, mlp.c_proj, q_proj]", ("q_proj", "mlp.c_proj")),
        ("q_proj", ("q_proj",)),
        (r".*attn\.(q|v)_proj", r".*attn\.(q|v)_proj"),
    ],
)
def test_a_layout_is_roles_or_names_or_a_pattern(given, meant):
    assert load_config(preset="tiny", overrides=[f"adapter.layout={given}"]).adapter.layout == meant


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("QKW", r"adapter.layout: 'QKW' \(did you mean 'QKV'\?\).*letters QKVOGUD"),
        ("QQ", "each at most once"),
        ("[]", "at least one"),
        ("[q proj]", "module names"),
        ("'.*(q_proj'", "not a regular expression"),
    ],
)
def test_a_layout_that_means_nothing_is_refused(given, message):
    with pytest.raises(BadInputError, match=message):
        load_config(preset="tiny", overrides=[f"adapter.layout={given}"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"publish": {"pick": "best"}}, "no rows are set apart to judge by; set data.development"),
        ({"publish": {"candidates": 5}}, "candidates: does nothing where pick is last"),
        (
            {"publish": {"pick": "best"}, "data": {"development": 50}, "phases": ["sft+rl"]},
            r"phases is \[sft\+rl\], which adds the changes of two runs",
        ),
    ],
)
def test_a_pick_that_could_not_be_made_is_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate(settings)


def test_a_run_that_publishes_its_last_adapter_writes_its_settings_as_before() -> None:
    written = RunConfig().model_dump(mode="json")
    assert "publish" not in written
    assert "development" not in written["data"]
    best = RunConfig.model_validate({"publish": {"pick": "best"}, "data": {"development": 50}})
    assert RunConfig.model_validate(best.model_dump(mode="json")) == best


def test_a_mistake_is_blamed_on_what_it_came_from(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("rl: {lerning_rate: 1}\n", encoding="utf-8")
    with pytest.raises(BadInputError) as both:
        load_config(file=file, overrides=["data.sorce=rows.csv", "sft.epochs=2"])
    assert sorted(str(both.value).split("; ")) == [
        "--set data.sorce: no such key (did you mean 'source'?)",
        f"{file}: rl.lerning_rate: no such key (did you mean 'learning_rate'?)",
    ]
    with pytest.raises(BadInputError, match=r"^preset tiny with --set: adapter: .*rank: does nothing"):
        load_config(preset="tiny", overrides=["adapter.kind=ia3", "adapter.rank=4"])


def test_a_path_may_be_text_and_one_that_is_not_there_names_its_neighbour(tmp_path):
    (tmp_path / "mini.yaml").write_text("name: mine\n", encoding="utf-8")
    assert load_config(file=str(tmp_path / "mini.yaml")).name == "mine"
    with pytest.raises(
        BadInputError, match=r"^--config: there is no file .*min\.yaml \(did you mean 'mini\.yaml'\?\)$"
    ):
        load_config(file=str(tmp_path / "min.yaml"))
    with pytest.raises(BadInputError, match=r"--config: .* cannot be read: File name too long"):
        load_config(file="x" * 300 + "/y.yaml")
