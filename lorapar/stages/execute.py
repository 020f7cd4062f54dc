"""execute: answers that are code are run in the sandbox, and so scored; the rest of an evaluation passes through.

executions.jsonl says how every program ended. In summary.json the benchmark's accuracies (the share of programs that
pass: pass@1), their intervals and the changes between models are filled in, and `sandbox` says which layers were in
force and what they left open.
"""

from __future__ import annotations

from lorapar.config import ExecuteConfig
from lorapar.evaluation.benchmarks import PROBLEMS_FILE
from lorapar.records import write_json, write_records
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec
from lorapar.store import MANIFEST
from lorapar.store.file_system import copy_files


class Settings(StageSettings):
    """The sandbox and its limits; what is run is named in the evaluation."""

    execute: ExecuteConfig


SPEC = StageSpec(
    name="execute",
    summary="score generated code in the sandbox; everything else passes through",
    settings=Settings,
    inputs=("evaluation",),
    outputs=("evaluation",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Copy the evaluation and score what is code in it; programs of an earlier, killed call are not run again."""
    folder = call.output("evaluation")
    copy_files(call.input("evaluation"), folder, left_out=(MANIFEST,))
    if not (folder / PROBLEMS_FILE).is_file():
        return {"executed_samples": 0.0}
    return _score(call)


def _score(call: StageCall[Settings]) -> Metrics:
    from lorapar.evaluation.execution import ExecutionJournal, limits_of, read_submissions, run_all, scored_summary
    from lorapar.evaluation.sandbox import SandboxPool

    folder, settings = call.output("evaluation"), call.settings.execute
    answers, submissions = read_submissions(folder)
    journal = ExecutionJournal(call.scratch / "executions.jsonl", call.keeper.tick)
    with SandboxPool(limits_of(settings), settings.sandbox, settings.workers) as pool:
        if pool.gaps:
            call.progress.log(
                f"warning: generated code could {', '.join(pool.gaps)}, because execute.sandbox is best_effort"
            )
        executions = run_all(submissions, pool, journal, call.progress)
        answers, summary = scored_summary(folder, answers, executions)
        summary["sandbox"] = {"layers": pool.layers, "gaps": pool.gaps}
    write_records(folder / "executions.jsonl", executions)
    write_records(folder / "answers.jsonl", answers)
    write_json(folder / "summary.json", summary)
    passed = sum(execution.status == "passed" for execution in executions)
    return {"executed_samples": float(len(executions)), "passed_samples": float(passed)}
