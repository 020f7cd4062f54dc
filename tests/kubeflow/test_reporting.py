"""The exit task finds what a run has made, however far it came."""

from __future__ import annotations

import http.server
import json
import threading

import pytest

from lorapar.config import load_config
from lorapar.errors import BadInputError, IntegrityError, UnreachableError
from lorapar.kubeflow import executor
from lorapar.kubeflow.ledger import Ledger
from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.parameters import PARAMETERS
from lorapar.kubeflow.planned import Lane
from lorapar.kubeflow.reporting import close_cancelled, keep_plan, node_outcomes, print_outcome, recorded_outcome
from lorapar.kubeflow.summary import RunSummary, logged_outcome, post_summary, summary_text
from lorapar.kubeflow.tasks import TASKS
from lorapar.local.execute import new_record
from lorapar.local.folder import StageRecord
from lorapar.records import Answer, digest_of, write_json, write_records
from lorapar.registry import Registry
from lorapar.stages.contract import is_cached, stage_spec
from lorapar.stages.graph import GRAPH
from lorapar.stages.plan import make_plan
from lorapar.stages.plan_file import Plan
from lorapar.store import open_store

MIX = "data.task_mix={system1_train: 3, system1_heldout: 2, system2_train: 3, system2_heldout: 2}"


def planned(cluster, run="run-1"):
    values = {parameter.name: parameter.default for parameter in PARAMETERS}
    values |= {"config": "preset:tiny", "overrides": MIX, "store": cluster.address, "run": run}
    out = cluster.run(
        "plan", values | {"vote_accelerators": "1"}, ["examples"], ["examples_digest", "vote_first_lanes"]
    )
    return out.parameter_values


def reported(cluster, run="run-1", state="FAILED"):
    values = {"store": cluster.address, "run": run, "webhook": "", "status": {"state": state}}
    cluster.run("report", values, ["page", "summary"])
    folder = cluster.root / f"task-{cluster.count}" / "out"
    return (folder / "page").read_text(encoding="utf-8"), (folder / "summary").read_text(encoding="utf-8")


def test_a_run_that_failed_half_way_shows_what_it_made_and_what_failed(cluster, monkeypatch) -> None:
    monkeypatch.setenv("LORAPAR_RUN", "run-1")
    planned(cluster)
    settings = cluster.settings({"vote-first": {}})
    with pytest.raises(BadInputError):
        cluster.run("vote", {"settings": settings, "store": cluster.address, "examples_digest": "0" * 64}, ["votes"])
    page, summary = reported(cluster)
    assert page.lstrip().lower().startswith("<!doctype html")
    assert summary.startswith("# Failed: run `tiny`")
    assert "| prepare |" in summary
    assert "| rl | | not reached |" in summary
    assert "**vote**: settings of vote" in summary
    outcome = json.loads(cluster.store.read("runs/run-1/outcome.json"))
    assert outcome["succeeded"] is False
    assert "vote-first" in outcome["missing"]
    assert json.loads(cluster.store.read("runs/run-1/metrics.json"))["name"] == "tiny"


def test_a_run_that_was_not_even_planned_has_a_summary(cluster) -> None:
    page, summary = reported(cluster, run="run-2")
    assert "before anything was planned" in page
    assert summary.startswith("# Failed: run")


def test_a_task_from_the_cache_is_found_by_another_run(cluster, monkeypatch) -> None:
    """KFP runs nothing on a cache hit: the record is that of the run which did the work."""
    monkeypatch.setenv("LORAPAR_RUN", "run-1")
    planned(cluster)
    settings = json.loads(cluster.store.read("runs/run-1/plan.json"))["plan"]["sections"]["prepare"]
    record, own = Ledger(cluster.store, "run-2").find_record("prepare", settings, {})
    assert record is not None
    assert not own
    first = Ledger(cluster.store, "run-1")
    _, own = first.find_record("prepare", settings, {})
    assert own
    assert first.find_record("prepare", settings, {}, first.own_records())[1]
    assert not first.find_record("prepare", settings, {}, frozenset())[1]


@pytest.mark.parametrize("run", ["../x", "a/b", "-x", "x" * 200])
def test_a_run_that_is_no_name_never_becomes_a_key(cluster, run) -> None:
    with pytest.raises(BadInputError, match="not the name of a run"):
        Ledger(cluster.store, run)


# --- judged by the ledger, whatever Kubeflow says --------------------------------------------------------------------

STATES = ("", "RUNNING", "SUCCEEDED", "FAILED")
"""What an exit handler is told of the run, right or wrong (2.15 to 2.17.0 leave it RUNNING where a nested group was
skipped or came last from the cache: backend/src/v2/metadata/client.go, UpdateDAGExecutionsState)."""
BETTER = {"gate": {"better": 1.0, "promote": 1.0}, "promote": {"promoted": 1.0}}
NOT_BETTER = {"gate": {"better": 0.0, "promote": 0.0}}
SWITCHED_OFF = {"gate": {"better": 1.0, "promote": 0.0}}
KEPT_OUT = {"gate": {"better": 1.0, "promote": 1.0}, "promote": {"promoted": 0.0}}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(load_config(preset="tiny", overrides=[MIX]))


def leave(cluster, plan, run, metrics, *, before=None, cached=(), at="2026-11-28T10:00:00+00:00") -> None:
    """The records that a run leaves as far as `before`; nodes in `cached` have not run in it."""
    ledger = Ledger(cluster.store, run)
    made: dict[str, StageRecord] = {}
    for node in GRAPH:
        if node.name == before or node.stage == "report" or (node.when is not None and node.name not in metrics):
            break
        inputs = {name: [made[edge.node].outputs[edge.output] for edge in edges] for name, edges in node.inputs.items()}
        outputs = {name: digest_of([node.name, name]) for name in stage_spec(node.stage).outputs}
        settings = plan.sections.get(node.name, {})
        record = new_record(node.name, node.stage, settings, inputs)
        record = record.model_copy(
            update={"outputs": outputs, "metrics": metrics.get(node.name, {}), "finished": at, "seconds": 1.0}
        )
        made[node.name] = record
        if node.name == "plan":
            keep_plan(ledger, record, plan, {})
        elif node.name not in cached:
            ledger.write_record(record)


def outcome_of(cluster, run, state, capsys) -> dict:
    """What `report` puts into the store, after it has said the same in its log."""
    reported(cluster, run, state)
    outcome = json.loads(cluster.store.read(f"runs/{run}/outcome.json"))
    assert logged_outcome(capsys.readouterr().out) == outcome
    return outcome


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("metrics", "better", "promoted"),
    [(BETTER, True, True), (NOT_BETTER, False, False), (SWITCHED_OFF, True, False), (KEPT_OUT, True, False)],
    ids=["promoted", "not better", "switched off", "kept out of production"],
)
def test_a_run_that_left_every_record_has_succeeded(cluster, plan, capsys, metrics, better, promoted, state) -> None:
    leave(cluster, plan, "run-1", metrics)
    outcome = outcome_of(cluster, "run-1", state, capsys)
    assert (outcome["succeeded"], outcome["better"], outcome["promoted"]) == (True, better, promoted)
    assert outcome["missing"] == []


CACHED = [node.name for node in GRAPH if is_cached(node.stage)]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("metrics", [BETTER, NOT_BETTER, SWITCHED_OFF])
def test_a_run_whose_tasks_all_came_from_the_cache_has_succeeded(cluster, plan, capsys, metrics, state) -> None:
    leave(cluster, plan, "run-1", metrics, at="2026-11-27T10:00:00+00:00")
    leave(cluster, plan, "run-2", metrics, cached=CACHED)
    outcome = outcome_of(cluster, "run-2", state, capsys)
    assert (outcome["succeeded"], outcome["promoted"]) == (True, metrics is BETTER)


def test_a_loop_of_which_one_task_failed_is_missing_with_its_reason(cluster, plan, capsys) -> None:
    """Each item of the loop asks some of the teachers; the record of one that finished says nothing of the others."""
    leave(cluster, plan, "run-1", BETTER, before="vote-first")
    ledger, kept = Ledger(cluster.store, "run-1"), json.loads(cluster.store.read("runs/run-1/plan.json"))
    teachers = [{**plan.sections["vote-first"], "asked": [name]} for name in ("one", "other")]
    record = StageRecord.model_validate(kept["record"])
    keep_plan(ledger, record, plan, {"vote-first": [Lane("vote-first", one, "0") for one in teachers]})
    inputs = {"examples": [digest_of(["prepare", "examples"])]}
    made = {"outputs": {"votes": digest_of(["votes"])}, "finished": record.finished, "seconds": 1.0}
    for node in range(2):
        finished = new_record("vote-first", "vote", teachers[node], inputs).model_copy(update=made)
        ledger.write_record(finished)
        if node == 0:
            ledger.write_error("vote", "other: the endpoint refused (401)")
            outcome = outcome_of(cluster, "run-1", "FAILED", capsys)
            assert (outcome["succeeded"], "vote-first" in outcome["missing"]) == (False, True)
            assert outcome["errors"] == {"vote": "other: the endpoint refused (401)"}
            assert node_outcomes(ledger)["vote-first"] == "FAILED"
    assert "vote-first" not in outcome_of(cluster, "run-1", "FAILED", capsys)["missing"]
    assert node_outcomes(ledger)["vote-first"] == "SUCCEEDED"


NODES = [node.name for node in GRAPH if node.stage not in ("plan", "report")]


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("line", ["it is broken", None], ids=["with a word", "killed"])
def test_a_run_that_failed_in_a_stage_has_failed(cluster, plan, capsys, node, line) -> None:
    leave(cluster, plan, "run-1", BETTER, before=node)
    if line is not None:
        Ledger(cluster.store, "run-1").write_error(node_of(node).stage, line)
    outcome = outcome_of(cluster, "run-1", "SUCCEEDED", capsys)
    assert (outcome["succeeded"], outcome["promoted"]) == (False, False)
    assert node in outcome["missing"]
    assert outcome["errors"] == ({node_of(node).stage: line} if line else {})


@pytest.mark.parametrize("node", ["publish", "gate", "promote"])
def test_what_is_never_cached_has_to_run_in_this_run(cluster, plan, capsys, node) -> None:
    """An equal run has left the same records before; in this one the task was killed without a word."""
    leave(cluster, plan, "run-1", BETTER, at="2026-11-27T10:00:00+00:00")
    leave(cluster, plan, "run-2", BETTER, before=node)
    outcome = outcome_of(cluster, "run-2", "RUNNING", capsys)
    assert (outcome["succeeded"], node in outcome["missing"]) == (False, True)


@pytest.mark.parametrize("node", ["publish", "gate", "promote"])
def test_the_record_of_an_equal_run_at_the_same_time_is_not_taken_for_one_s_own(cluster, plan, capsys, node) -> None:
    """The other one ends later than this one was planned, so that no clock tells them apart."""
    leave(cluster, plan, "run-1", BETTER, at="2026-11-28T10:00:00+00:00", before=node)
    leave(cluster, plan, "run-2", BETTER, at="2026-11-28T10:05:00+00:00")
    outcome = outcome_of(cluster, "run-1", "RUNNING", capsys)
    assert (outcome["succeeded"], outcome["promoted"], outcome["missing"][0]) == (False, False, node)
    assert outcome["better"] is (True if node == "promote" else None)
    message = recorded_outcome(Ledger(cluster.store, "run-1"))
    assert message == ({"better": True, "wanted": True} if node == "promote" else {})


def test_tasks_that_are_never_cached_know_their_run_without_the_downward_api(cluster, monkeypatch) -> None:
    """Of a cached one it would be in Kubeflow's cache key."""
    spec = build_package({}, None).spec
    message = {}
    for component in [spec["root"], *spec["components"].values()]:
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            if "executorLabel" in spec["components"][task["componentRef"]["name"]]:
                message[name] = task.get("inputs", {}).get("parameters", {}).get("run")
    run = {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}
    assert message == {task.name: None if task.cached else run for task in TASKS}
    monkeypatch.delenv("LORAPAR_RUN", raising=False)
    with pytest.raises(IntegrityError):
        cluster.run("gate", {"settings": "0" * 64, "store": cluster.address, "run": "run-7"})
    assert set(Ledger(cluster.store, "run-7").errors()) == {"gate"}


@pytest.mark.parametrize("state", STATES)
def test_a_run_that_left_nothing_has_failed(cluster, capsys, state) -> None:
    outcome = outcome_of(cluster, "run-1", state, capsys)
    assert (outcome["succeeded"], outcome["better"], outcome["promoted"]) == (False, None, False)


def test_a_cancelled_run_gets_its_summary_once(cluster, plan) -> None:
    """Argo starts no exit handler once a run was terminated."""
    leave(cluster, plan, "run-1", BETTER, before="rl")
    ledger = Ledger(cluster.store, "run-1")
    assert close_cancelled(ledger, cluster.root / "closing")
    outcome = json.loads(cluster.store.read("runs/run-1/outcome.json"))
    assert (outcome["cancelled"], outcome["succeeded"], outcome["missing"][0]) == (True, False, "rl")
    assert cluster.store.read("runs/run-1/summary.md").decode().startswith("# Cancelled: run `tiny`")
    assert not close_cancelled(ledger, cluster.root / "again")


RECORDED = [
    (BETTER, None, {"better": True, "wanted": True, "promoted": True}),
    (KEPT_OUT, None, {"better": True, "wanted": True, "promoted": False}),
    (NOT_BETTER, None, {"better": False, "wanted": False}),
    (BETTER, "promote", {"better": True, "wanted": True}),
    (BETTER, "gate", {}),
]


@pytest.mark.parametrize(("metrics", "before", "message"), RECORDED)
def test_records_say_how_a_run_came_out_as_far_as_it_went(cluster, plan, metrics, before, message) -> None:
    """The report may have been stopped, or its results refused."""
    leave(cluster, plan, "run-1", metrics, before=before)
    assert recorded_outcome(Ledger(cluster.store, "run-1")) == message
    assert recorded_outcome(Ledger(cluster.store, "run-2")) == {}


def test_records_of_an_earlier_run_say_nothing_of_this_one(cluster, plan) -> None:
    leave(cluster, plan, "run-1", BETTER, at="2026-11-27T10:00:00+00:00")
    leave(cluster, plan, "run-2", BETTER, before="publish")
    assert recorded_outcome(Ledger(cluster.store, "run-2")) == {}


def node_of(name: str):
    return next(node for node in GRAPH if node.name == name)


def test_a_store_that_cannot_be_read_does_not_cost_the_page(cluster, monkeypatch, capsys) -> None:
    def refused(address: str) -> None:
        raise UnreachableError(f"{address}: refused to ListObjects: InternalError")

    monkeypatch.setattr(executor, "open_store", refused)
    page, summary = reported(cluster)
    assert page.startswith("<!doctype html>")
    assert summary.startswith("# Unknown: run")
    assert "refused to ListObjects: InternalError" in summary
    assert "Kubeflow so far reports the run as FAILED" in summary
    message = capsys.readouterr().out
    assert "lorapar: report: " in message
    assert logged_outcome(message) == {}, "what is not known is not said"


def test_a_store_that_takes_no_results_costs_neither_page_nor_outcome(cluster, plan, monkeypatch, capsys) -> None:
    leave(cluster, plan, "run-1", NOT_BETTER)

    def refused(self, name: str, data: bytes) -> None:
        raise UnreachableError(f"s3://bucket/{name}: refused to PutObject: InternalError")

    monkeypatch.setattr(Ledger, "write_result", refused)
    _, summary = reported(cluster)
    assert summary.startswith("# Not better: run `tiny`")
    assert "refused to PutObject: InternalError" in summary
    assert logged_outcome(capsys.readouterr().out)["better"] is False


def test_a_webhook_that_does_not_answer_fails_no_run(cluster, plan) -> None:
    leave(cluster, plan, "run-1", NOT_BETTER)
    values = {"store": cluster.address, "run": "run-1", "webhook": "http://127.0.0.1:9/x", "status": {"state": ""}}
    cluster.run("report", values, ["page", "summary"])
    summary = (cluster.root / f"task-{cluster.count}" / "out" / "summary").read_text(encoding="utf-8")
    assert "webhook: 127.0.0.1:9 did not take the summary" in summary


def gate_of(cluster, right: int, promote: bool) -> dict[str, str]:
    """What the task `gate` is given: a published adapter that is right on so many of 40 rows, beside a base on 5."""
    registry, folder = Registry(open_store(cluster.root / "registry")), cluster.root / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_text("weights")
    registry.publish("tiny", folder)
    about = {"registry": registry.address, "name": "tiny", "version": 1, "incumbent": None}
    about["digest"] = registry.resolve("tiny@1").digest
    answers = [
        Answer(example_id=f"{system}{n}", system=system, model=model, text="", tokens=1, loss=1.0, strict=n < count)
        for model, count in {"base": 5, "after_rl": right}.items()
        for system in ("system1", "system2")
        for n in range(40)
    ]
    made = {name: cluster.root / name for name in ("version", "evaluation")}
    for one in made.values():
        one.mkdir()
    write_json(made["version"] / "version.json", about)
    write_records(made["evaluation"] / "answers.jsonl", answers)
    settings = cluster.settings({"gate": {"gate": {"promote": promote}}, "promote": {}})
    digests = {f"{name}_digest": cluster.put(one) for name, one in made.items()}
    return {"settings": settings, "store": cluster.address, "run": "run-1", **digests}


@pytest.mark.parametrize(
    ("right", "promote", "outcome"),
    [
        (30, True, {"better": True, "wanted": True, "promoted": True}),
        (30, False, {"better": True, "wanted": False}),
        (5, True, {"better": False, "wanted": False}),
    ],
)
def test_the_log_of_the_task_gate_says_how_the_run_comes_out(cluster, capsys, right, promote, outcome) -> None:
    """`submit --wait` reads it where it has no rights in the store."""
    cluster.run("gate", gate_of(cluster, right, promote), ["verdict"])
    assert logged_outcome(capsys.readouterr().out) == outcome


def test_gate_and_promote_say_in_their_logs_how_the_run_comes_out(capsys) -> None:
    print_outcome("gate", {"better": 1.0, "promote": 0.0})
    assert logged_outcome(capsys.readouterr().out) == {"better": True, "wanted": False}
    print_outcome("promote", {"promoted": 1.0})
    assert logged_outcome(capsys.readouterr().out) == {"promoted": True}
    print_outcome("sft", {})
    assert capsys.readouterr().out == ""


def summary_of(**changes) -> RunSummary:
    values = {"run": "r", "name": "n", "succeeded": True, "promoted": False, "verdict": None, "reached": []}
    values |= {"missing": [], "errors": {}, "timings": []} | changes
    return RunSummary(**values)


@pytest.mark.parametrize(
    ("changes", "head"),
    [
        ({"promoted": True, "verdict": {"better": True, "reasons": ["up <b>"]}}, "# Promoted: run `n`\n\n- up \\<b\\>"),
        ({"verdict": {"better": False, "reasons": []}}, "# Not better: run `n`"),
        ({"verdict": {"better": True}}, "# Better, not promoted: run `n`"),
        ({"succeeded": False}, "# Failed: run `n`"),
    ],
)
def test_the_first_line_says_how_it_ended(changes, head) -> None:
    assert summary_text(summary_of(**changes)).startswith(head)


def test_the_webhook_gets_the_summary_and_an_outage_names_the_host_only() -> None:
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if self.path == "/token" else 500)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = f"http://127.0.0.1:{server.server_port}"
    post_summary(f"{where}/token", "# page", summary_of())
    assert got[0]["text"] == "# page"
    assert got[0]["outcome"]["succeeded"] is True
    with pytest.raises(UnreachableError) as refused:
        post_summary(f"{where}/secret-token", "# page", summary_of())
    assert "secret-token" not in str(refused.value)
    server.shutdown()
    with pytest.raises(BadInputError, match="webhook"):
        post_summary("file:///etc/passwd", "", summary_of())
