"""Run the pipeline once with the preset tiny and write down what each task was started with.

`python recorded_run.py FOLDER [STORE]`: the store is FOLDER/store unless one is named, and FOLDER/tasks.json holds the
ExecutorInput of each task by its stage, and that of the first vote. PYTHONPATH decides which build of lorapar runs, so
nothing here may be newer than the earliest of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from kfp.local.status import Status

from lorapar.kubeflow.executor import run_task
from lorapar.progress import Silent
from tests.kubeflow.local_runs import LocalRuns

SETTINGS = """
sft.max_steps=10
sft.learning_rate=2e-2
rl.max_steps=1
data.task_mix={system1_train: 24, system1_heldout: 16, system2_train: 8, system2_heldout: 4}
"""


class RecordedRuns(LocalRuns):
    """Keeps the last input of each stage, and the first of `vote`, which is a round by itself in every build."""

    inputs: dict[str, str]
    elsewhere: str = ""
    """The address of the store, where it is not below the folder."""

    @property
    def store(self) -> str:
        return self.elsewhere or super().store

    def _start(self, command: list[str]) -> Any:
        stage, given = command[2], command[4]
        self.inputs[stage] = given
        if stage == "vote":
            self.inputs.setdefault("vote-first", given)
        # An earlier build reads the store's address only here.
        run_task(stage, given, self.store, self.root / "scratch", Silent())
        return Status.SUCCESS


def tally_by_itself(address: str, vote: str) -> str:
    """The input of the second tally where it is done by the task of the votes: theirs, and what they came to."""
    from lorapar.kubeflow.ledger import Ledger
    from lorapar.store import open_store

    store = open_store(address)
    ledger = Ledger(store)
    records = [json.loads(store.read(found.key)) for found in store.list("records/")]
    (tally,) = (record for record in records if record["node"] == "tally")
    given = json.loads(vote)
    values = given["inputs"]["parameterValues"]
    values["settings"] = ledger.write_settings({"tally": ledger.read_settings(values["settings"])["tally"]})
    values["votes_rest_digest"] = tally["inputs"]["votes"][-1]
    return json.dumps(given)


def main(root: Path, store: str = "") -> None:
    """Run, and write the inputs."""
    runs = RecordedRuns(root)
    runs.elsewhere = store
    runs.inputs = {}
    runs.run(config="preset:tiny", overrides=SETTINGS, adapter_name="tiny", parallelism=2)
    if "tally" not in runs.inputs:
        runs.inputs["tally"] = tally_by_itself(runs.store, runs.inputs["vote"])
    (root / "tasks.json").write_text(json.dumps(runs.inputs), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
