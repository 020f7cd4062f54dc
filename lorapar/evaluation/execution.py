"""Score answers that are code: run each in the sandbox, keep how it ended, fill in what that says of the models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorapar.config import ExecuteConfig
from lorapar.errors import BadInputError
from lorapar.evaluation.accuracy import ANSWERS
from lorapar.evaluation.benchmarks import PROBLEMS_FILE, Problem, program_of
from lorapar.evaluation.sandbox import Limits, SandboxPool
from lorapar.evaluation.summary import Metrics, all_changes, score_metrics
from lorapar.progress import Progress
from lorapar.records import Answer, Record, digest_of, read_json, read_records, recover_lines

MODELS = ("base", "after_sft", "after_rl")
"""The models whose changes are told, in their order."""


class Execution(Record):
    """How one answer's program ended."""

    benchmark: str
    example_id: str
    model: str
    program: str
    """sha256 of the program; equal programs are run once."""
    status: str
    detail: str
    seconds: float


class Ended(Record):
    """How a program ended, whichever model wrote it."""

    program: str
    status: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Submission:
    """An answer with the program that shows whether it is right."""

    answer: Answer
    source: str

    @property
    def program(self) -> str:
        """sha256 of the program."""
        return digest_of(self.source)


class ExecutionJournal:
    """Programs that were run; a line that was cut off by a kill is dropped and its program run again."""

    def __init__(self, path: Path, on_add: Callable[[], None]) -> None:
        self._path, self._on_add = path, on_add
        self.ended = {ended.program: ended for ended in recover_lines(path, Ended.model_validate_json)}

    def add(self, ended: Ended) -> None:
        """Keep one, on disk first."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(ended.model_dump_json() + "\n")
        self.ended[ended.program] = ended
        self._on_add()


def limits_of(settings: ExecuteConfig) -> Limits:
    """The limits that the settings give one program."""
    return Limits(
        wall_seconds=settings.wall_seconds,
        cpu_seconds=settings.cpu_seconds,
        memory_bytes=settings.memory_mib << 20,
        processes=settings.threads,
        file_bytes=settings.file_mib << 20,
        scratch_bytes=settings.scratch_mib << 20,
        output_bytes=settings.output_kib << 10,
    )


def read_submissions(evaluation: Path) -> tuple[list[Answer], list[Submission]]:
    """All answers of an evaluation, and those that are code; raises BadInputError where a problem is missing."""
    problems = {(one.benchmark, one.example_id): one for one in read_records(evaluation / PROBLEMS_FILE, Problem)}
    code = {benchmark for benchmark, _ in problems}
    answers = list(read_records(evaluation / ANSWERS, Answer))
    submissions = []
    for answer in answers:
        if answer.benchmark in code:
            problem = problems.get((answer.benchmark, answer.example_id))
            if problem is None:
                raise BadInputError(
                    f"{evaluation / PROBLEMS_FILE}: it has no problem {answer.example_id}; run evaluate again"
                )
            submissions.append(Submission(answer, program_of(problem, answer.text)))
    return answers, submissions


def run_all(
    submissions: Sequence[Submission], pool: SandboxPool, journal: ExecutionJournal, progress: Progress
) -> list[Execution]:
    """How every submission ended; what the journal knows is not run again."""
    left = {one.program: one.source for one in submissions if one.program not in journal.ended}
    progress.start("running generated code", total=len(left))
    programs, passed = list(left), 0
    for place, outcome in pool.outcomes(left.values()):
        journal.add(
            Ended(program=programs[place], status=outcome.status, detail=outcome.detail, seconds=outcome.seconds)
        )
        passed += outcome.passed
        progress.advance(1, f"{passed} passed")
    return [_execution(one, journal.ended[one.program]) for one in submissions]


def scored_summary(
    evaluation: Path, answers: Sequence[Answer], executions: Sequence[Execution]
) -> tuple[list[Answer], dict[str, Any]]:
    """The answers with their verdicts, and the evaluation's summary with accuracies and changes filled in."""
    ended = {(one.model, one.benchmark, one.example_id): one.status == "passed" for one in executions}
    scored = [_with_verdict(answer, ended) for answer in answers]
    summary: dict[str, Any] = read_json(evaluation / "summary.json")
    confidence = summary["confidence"]
    for model, benchmark in dict.fromkeys((one.model, one.benchmark) for one in executions):
        own = [answer for answer in scored if (answer.model, answer.benchmark) == (model, benchmark)]
        metrics: Metrics = summary[model]["benchmarks"][benchmark]
        metrics.update(score_metrics(own, confidence))
    compared = {name: [answer for answer in scored if answer.model == name] for name in MODELS if name in summary}
    summary["changes"] = all_changes(compared, confidence)
    return scored, summary


def _execution(submission: Submission, ended: Ended) -> Execution:
    answer = submission.answer
    return Execution(benchmark=answer.measure, example_id=answer.example_id, model=answer.model, **ended.model_dump())


def _with_verdict(answer: Answer, ended: dict[tuple[str, str, str], bool]) -> Answer:
    """There is no laxer rule for code: both verdicts are the same."""
    passed = ended.get((answer.model, answer.measure, answer.example_id))
    return answer if passed is None else answer.model_copy(update={"strict": passed, "lenient": passed})
