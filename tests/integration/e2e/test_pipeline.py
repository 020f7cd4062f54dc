"""The compiled pipeline from end to end, in its containers: read-only root, no capabilities, not as root."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from lorapar.stages.graph import node_names

# Enough tuning of the random model to be better than its base, so that the last branch is taken too.
OVERRIDES = """
sft.max_steps=120
sft.learning_rate=2e-2
data.task_mix={system1_train: 48, system1_heldout: 32, system2_train: 12, system2_heldout: 6}
"""


@pytest.fixture(scope="module")
def finished(run_pipeline):
    """One whole run with the tiny model."""
    return run_pipeline("whole", config="preset:tiny", overrides=OVERRIDES, adapter_name="tiny", parallelism=2)


def test_every_stage_ran_and_the_better_adapter_was_promoted(finished, results) -> None:
    outcome = json.loads(results(finished, "outcome.json"))
    assert outcome["succeeded"] is True
    assert outcome["missing"] == []
    assert (outcome["better"], outcome["promoted"]) == (True, True)
    timed = [timing["node"] for timing in json.loads(results(finished, "metrics.json"))["timings"]]
    assert timed == [name for name in node_names() if name != "report"]


def test_metrics_are_at_their_fixed_place_and_in_kubeflows_own_form(finished, results) -> None:
    metrics = json.loads(results(finished, "metrics.json"))
    assert metrics["base"]["system1_accuracy"] < metrics["after_rl"]["system1_accuracy"]
    outputs = [json.loads(path.read_text(encoding="utf-8")) for path in finished.root.rglob("executor_output.json")]
    assert all("parameterValues" in one for one in outputs)
    shown = [
        artifact["metadata"]
        for one in outputs
        for artifact in one["artifacts"].get("metrics", {"artifacts": []})["artifacts"]
    ]
    assert any("after_rl_system1_accuracy" in one for one in shown)


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append(tag)
        self.outside += [str(value) for key, value in attributes if key == "src" and not str(value).startswith("data:")]


def test_the_report_opens_without_network(finished, results) -> None:
    page = Page()
    page.feed(results(finished, "report.html").decode())
    assert {"html", "title", "table", "svg"} <= set(page.tags)
    assert "script" not in page.tags
    assert page.outside == []
    (shown,) = finished.root.rglob("page")
    assert shown.read_bytes() == results(finished, "report.html")


def test_plan_and_evaluate_leave_a_page_of_their_own(finished) -> None:
    heads = {path.read_text(encoding="utf-8").partition("\n")[0] for path in finished.root.rglob("summary")}
    assert {"# What will run: `tiny`", "# Held-out scores", "# Promoted: run `tiny`"} <= heads


def test_the_published_adapter_loads_with_peft(finished, results, tmp_path) -> None:
    import torch
    from peft import PeftModel

    from lorapar.basemodel import load_model
    from lorapar.config import ModelConfig
    from lorapar.registry import Registry
    from lorapar.store import open_store

    version = Registry(open_store(f"{finished.store}/registry")).pull("tiny@production", tmp_path / "adapter")
    assert version.number == 1
    base = load_model(ModelConfig(name="builtin:tiny", dtype="float32"))
    ids = torch.arange(1, 9)[None]
    before = base(ids).logits.detach()
    model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, before)
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, before)


def test_a_wrong_parameter_fails_in_plan_names_itself_and_is_reported(run_pipeline, results) -> None:
    ran = run_pipeline("wrong", config="preset:tiny", theta="2")
    outcome = json.loads(results(ran, "outcome.json"))
    assert outcome["succeeded"] is False
    assert "theta" in outcome["errors"]["plan"]
    assert "theta" in results(ran, "summary.md").decode()
