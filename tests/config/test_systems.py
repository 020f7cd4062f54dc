"""Systems by name: what the settings take, what they fill in, and what they refuse in one line."""

import pytest

from lorapar.config import RunConfig, validate_settings
from lorapar.config.systems import slot_of, slot_systems
from lorapar.config.training import PhaseConfig, phase_text, trained_in
from lorapar.errors import BadInputError
from lorapar.stages.plan import node_settings

THREE = {
    "systems": [
        {"name": "recall", "description": "it asks for one fact"},
        {"name": "sums", "description": "it has something to add up", "steps": True},
        {"name": "code", "description": "it asks for a program", "word": "program", "message": "Write code."},
    ],
    "phases": [
        {"system": "recall", "method": "sft"},
        {"system": "code", "method": "sft"},
        {"system": "sums", "method": "rl"},
        {"system": "recall", "method": "sft"},
    ],
    "data": {"source": "rows.jsonl"},
}


def settings(**values):
    return validate_settings({**THREE, **values}, "three.yaml")


def test_what_other_sections_leave_open_comes_from_the_systems():
    config = settings()
    assert config.system_names == ("recall", "sums", "code")
    assert config.gate.measures == config.data.systems == config.system_names
    assert config.voting.tie == "code"
    assert config.prompts.message_for("recall") is None
    assert "step by step" in config.prompts.message_for("sums")
    assert config.prompts.message_for("code") == "Write code."
    assert [config.prompts.answers_in_tags(name) for name in config.system_names] == [False, True, False]
    assert config.prompts.reasoning_system == "sums"
    assert RunConfig().prompts.reasoning_system == "system2"
    template = config.teachers[0].template
    assert template.label_words == {"recall": "recall", "sums": "sums", "code": "program"}
    assert "{code} if it asks for a program" in template.instruction


def test_settings_that_were_written_down_are_read_again_as_they_were():
    config = settings(gate={"measures": ["sums"]}, voting={"tie": "recall"})
    assert (config.gate.measures, config.voting.tie) == (("sums",), "recall")
    assert validate_settings(config.model_dump(mode="json", by_alias=True), "plan") == config


def test_two_systems_are_the_default_and_leave_no_trace():
    plain = RunConfig()
    assert plain.system_names == ("system1", "system2")
    assert "systems" not in plain.model_dump()
    assert "systems" not in plain.data.model_dump()
    assert "messages" not in plain.prompts.model_dump()
    named = [{"system": "system1", "method": "sft"}, {"system": "system2", "method": "rl"}]
    assert validate_settings({"phases": named}, "x") == plain


def test_sft_trains_what_stands_before_the_first_rl():
    config = settings()
    before, after = (trained_in(node, config.phases) for node in ("sft", "rl"))
    assert [phase.system for phase in before] == ["recall", "code"]
    assert [phase.system for phase in after] == ["sums", "recall"]
    swapped = validate_settings({"phases": [{"system": "system1", "method": "rl"}]}, "x")
    assert trained_in("sft", swapped.phases) == ()
    assert trained_in("rl", swapped.phases) == (PhaseConfig(system="system1", method="rl"),)


def test_the_graph_has_one_place_for_the_first_system_and_one_for_the_others():
    names = ("a", "b", "c", "d")
    assert [slot_systems(names, place) for place in ("system1", "system2")] == [("a",), ("b", "c", "d")]
    assert [slot_of(names, name) for name in names] == [
        ("system1", "examples.jsonl"),
        ("system2", "examples.jsonl"),
        ("system2", "c.jsonl"),
        ("system2", "d.jsonl"),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"systems": THREE["systems"][:1]}, "a run has 2 to 9 systems, and 1 are named"),
        ({"systems": [*THREE["systems"], THREE["systems"][0]]}, "the name 'recall' is used twice"),
        ({"systems": [{"name": "Recall"}, {"name": "b"}]}, "'Recall' is no system name"),
        ({"systems": [{"name": "shared"}, {"name": "b"}]}, "'shared' means something else"),
        ({"systems": [{"name": "recall"}, *THREE["systems"][1:]]}, "recall has no description"),
        ({"phases": ["sft", "rl"]}, "phases is left out; name each phase's, as in {system: recall, method: sft}"),
        ({"phases": [{"system": "recal", "method": "sft"}]}, "'recal' is no system (did you mean 'recall'?)"),
        ({"voting": {"tie": "system1"}}, "voting.tie: 'system1' is no system"),
        ({"gate": {"measures": ["system2"]}}, "gate.measures: 'system2' is not evaluated"),
        ({"partition": {"alpha": 0.5}}, "partition.alpha is about system1 and system2"),
        ({"partition": {"mask": "sft"}}, "partition.mask is about system1 and system2"),
        ({"prompts": {"system1": "Hi."}}, "use systems[].message"),
        ({"sft": {"warmup_system2_examples": 4}}, "a phase with method sft before RL"),
        ({"data": {}}, "data.source is task-mix"),
        ({"rl": {"score_again": True}}, "phases must be [sft, rl]"),
        (
            {"teachers": [{"name": "t", "template": {"label_words": {"recall": "a", "sums": "b"}}}]},
            "give a word for each",
        ),
        ({"evaluate": {"benchmarks": [{"task": "x", "chat": True, "system": "sum"}]}}, "'sum' is no system"),
    ],
)
def test_what_named_systems_exclude_is_refused_in_one_line(values, message):
    with pytest.raises(BadInputError) as refused:
        settings(**values)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_two_alone_are_not_described_anew():
    two = [{"name": "system1", "description": "x"}, {"name": "system2", "description": "y"}]
    with pytest.raises(BadInputError, match="have settings of their own"):
        validate_settings({"systems": two}, "x")


def phases_with(**settings_of_rl):
    phases = [dict(phase) for phase in THREE["phases"]]
    place = next(place for place, phase in enumerate(phases) if phase["method"] == "rl")
    phases[place] |= {"settings": settings_of_rl}
    return phases, place


def test_a_phase_may_have_settings_of_its_own_and_nodes_without_it_stay_as_they_were():
    phases, place = phases_with(learning_rate=1e-4, max_steps=7)
    plain, own = settings(), settings(phases=phases)
    assert own.phases[place].of(own.rl) == own.rl.model_copy(update={"learning_rate": 1e-4, "max_steps": 7})
    assert own.phases[0].of(own.sft) is own.sft
    changed = {name for name, values in node_settings(own).items() if values != node_settings(plain)[name]}
    assert changed == {"rl", "publish"}
    assert "settings" not in plain.phases[0].model_dump()
    assert validate_settings(own.model_dump(mode="json", by_alias=True), "x") == own


def test_the_papers_phases_with_settings_are_named_and_keep_them():
    values = [{"system": "system1", "method": "sft"}, {"system": "system2", "method": "rl", "settings": {"epochs": 2}}]
    config = validate_settings({"phases": values}, "x")
    assert [phase_text(phase) for phase in config.phases] == ["sft of system1", "rl of system2 with epochs 2"]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"learning_rat": 1}, "settings: learning_rat: no such key (did you mean 'learning_rate'?)"),
        ({"epochs": 0}, "settings: epochs: must be"),
        ({"num_generations": 3}, "settings: batch_size * gradient_accumulation (8 * 4) must be a multiple"),
        ({"rewards": {"exact_answer": 1.0}}, "settings: rewards: is one for all phases; set it in the section rl"),
    ],
)
def test_wrong_settings_of_a_phase_are_reported_with_its_place(own, message):
    phases, place = phases_with(**own)
    with pytest.raises(BadInputError) as refused:
        settings(phases=phases)
    assert f"phases[{place}].{message}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_phase_changes_only_the_keys_that_it_names_at_every_depth():
    section = {"filter": {"samples": 6, "low": 0.1, "high": 0.9}}
    phases, place = phases_with(filter={"low": 0.3})
    config = settings(phases=phases, rl=section)
    assert config.phases[place].of(config.rl).filter == config.rl.filter.model_copy(update={"low": 0.3})
    (named, own), *_ = config.rl_phases()
    assert (named, own.filter.samples, own.filter.low) == ("rl of sums", 6, 0.3)
    off, _ = phases_with(filter=None)
    assert settings(phases=off, rl=section).rl_sections()[0].filter is None
    on, _ = phases_with(filter={"samples": 4})
    assert settings(phases=on).rl_sections()[0].filter.samples == 4


def test_a_wrong_key_of_a_nested_setting_is_reported_with_its_path():
    phases, place = phases_with(filter={"lo": 0.3})
    with pytest.raises(BadInputError, match=rf"phases\[{place}\].settings: filter.lo: no such key"):
        settings(phases=phases, rl={"filter": {}})


def test_what_a_node_trains_is_reported_phase_by_phase_with_its_own_section():
    phases = [dict(phase) for phase in THREE["phases"]]
    phases[1]["settings"] = {"batch_size": 3}
    phases[3]["settings"] = {"batch_size": 5}
    config = settings(phases=phases)
    before = [(message, one.batch_size) for message, one in config.trained_by("sft")]
    after = [(message, one.batch_size) for message, one in config.trained_by("rl")]
    assert before == [("sft of recall", 1), ("sft of code", 3)]
    assert after == [("rl of sums", 8), ("sft of recall", 5)]
    assert [one.batch_size for one in config.sft_sections()] == [1, 3, 5]
    together = RunConfig(phases=["sft+rl"])
    assert together.trained_by("sft") == ()
    assert together.trained_by("rl") == (("sft", together.sft), ("rl", together.rl))
    only = RunConfig(phases=["sft"])
    assert (only.trained_by("rl"), only.rl_phases(), only.rl_sections()) == ((), (), (only.rl,))
