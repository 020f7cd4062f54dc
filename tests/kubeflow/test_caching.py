"""What KFP's cache key would hold: parameters of tasks, worked out from plans, with the rules of its driver.

The key is image, command, arguments, values of input parameters, and names (not contents) of artifacts, with names and
types of outputs and the claims that are mounted (Kubeflow 2.17.0, backend/src/v2/driver/cache.go, getFingerPrint, and
backend/src/v2/cacheutils/cache.go, GenerateCacheKey).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lorapar.kubeflow.parameters import run_config
from lorapar.kubeflow.planned import PlanCall, planned_run
from lorapar.kubeflow.tasks import TASKS, input_ports, task_of
from lorapar.stages.plan import make_plan
from lorapar.store import seal
from pipelines.compile import PACKAGE


def settings_of(values, pool=None) -> dict[str, str]:
    """The settings of every task, whose digest is all of its key that does not come from other tasks."""
    config = run_config({"config": "preset:tiny", **values})
    call = PlanCall(config, gpu_pool=pool or {}, parallelism=2, vote_accelerators="1")
    plan = make_plan(config)
    planned = planned_run(plan, call)
    found = {name: json.dumps(settings) for name, settings in planned.settings.items()}
    found |= {"vote-first": json.dumps([lane.settings for lane in planned.lanes["vote-first"]])}
    return found | {"plan": json.dumps(plan.sections["prepare"])}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def downstream(names: set[str]) -> set[str]:
    """Tasks whose inputs' digests may change when these run again."""
    found = set(names)
    for task in TASKS:
        if task.name != "report" and any(task_of(edge.node).name in found for _, edge in input_ports(task).values()):
            found.add(task.name)
    return found


def test_a_changed_rl_setting_runs_nothing_before_rl() -> None:
    again = changed(settings_of({}), settings_of({"overrides": "rl.learning_rate=0.002"}))
    # A published adapter tells how it was tuned.
    assert again == {"rl", "publish"}
    assert downstream(again) == {"rl", "publish", "evaluate", "gate"}


def test_the_pool_the_gpus_are_in_runs_nothing_again() -> None:
    assert changed(settings_of({}), settings_of({}, pool={"pool": "new"})) == set()


def test_changed_bytes_at_the_same_address_run_what_reads_them(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"

    def write(answer: str) -> dict[str, str]:
        lines = [{"question": f"What is {n}?", "answer": f"{answer} {n}", "reference": str(n)} for n in range(20)]
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return settings_of({"dataset": str(rows)})

    before, same, after = write("It is"), write("It is"), write("This is")
    assert changed(before, same) == set()
    assert "plan" in changed(before, after)


@pytest.mark.parametrize("parameter", ["theta", "alpha", "beta"])
def test_theta_reaches_partition_and_what_follows_only(parameter: str) -> None:
    assert changed(settings_of({}), settings_of({parameter: "0.5"})) <= {"partition", "publish"}


def test_a_moved_alias_runs_evaluation_again() -> None:
    """`publish` looks the alias up at every run, and what it found is in evaluate's key by its digest."""
    spec, _ = yaml.safe_load_all(PACKAGE.read_text(encoding="utf-8"))
    tasks = next(
        one["dag"]["tasks"]
        for one in spec["components"].values()
        if "evaluate" in one.get("dag", {"tasks": ()})["tasks"]
    )
    assert not tasks["publish"].get("cachingOptions", {}).get("enableCache", False)
    assert tasks["evaluate"]["cachingOptions"]["enableCache"]
    given = tasks["evaluate"]["inputs"]["parameters"]["incumbent_digest"]["taskOutputParameter"]
    assert given == {"producerTask": "publish", "outputParameterKey": "incumbent_digest"}


def test_the_digest_of_an_incumbent_is_that_of_its_version(tmp_path: Path) -> None:
    digests = []
    for version in ("1", "2", "2"):
        folder = tmp_path / f"{len(digests)}"
        folder.mkdir()
        (folder / "incumbent.json").write_text(json.dumps({"version": version}), encoding="utf-8")
        digests.append(seal(folder, "publish.incumbent").digest)
    assert digests[0] != digests[1] == digests[2]
