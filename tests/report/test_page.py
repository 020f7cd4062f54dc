"""The page as a whole: well-formed, self-contained, escaped, honest about what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lorapar.errors import BadInputError
from lorapar.records import Answer, Example, read_records, write_records
from lorapar.report import page as pages
from lorapar.report.page import SECTIONS, render_page, write_report
from lorapar.report.sources import ReportSources, read_facts

VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = "</td></script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}&amp;\"'"


class Page(HTMLParser):
    """Elements of a page in order; complains about tags that are not closed where they must be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> in the wrong place, line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a person reads, white space as one space."""
        return " ".join(" ".join(self.words).split())

    def attributes(self, name: str) -> Iterator[str]:
        """Values of an attribute, wherever it stands."""
        return (attrs[name] for _, attrs in self.elements if name in attrs)


@pytest.fixture(scope="module")
def written(sources: ReportSources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the report of a whole run."""
    folder = tmp_path_factory.mktemp("report")
    write_report(sources, folder)
    return folder


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    """The page of a whole run."""
    return Page((written / "report.html").read_text(encoding="utf-8"))


def test_every_section_has_its_heading_and_is_in_the_contents(page: Page) -> None:
    targets = [href for tag, attrs in page.elements if tag == "a" and (href := attrs.get("href"))]
    for anchor, title, _ in SECTIONS:
        assert f"#{anchor}" in targets
        assert title in page.text
    identifiers = list(page.attributes("id"))
    assert len(identifiers) == len(set(identifiers))
    assert {target.removeprefix("#") for target in targets} <= set(identifiers)
    assert "did not get that far" not in page.text


def test_the_page_loads_nothing_and_runs_nothing(page: Page, written: Path) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "video", "audio", "form", "base"}
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    for name in ("href", "src", "srcset", "data", "action", "poster", "xlink:href"):
        assert all(value.startswith("#") for value in page.attributes(name))
    text = (written / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src 'none'" in next(value for value in page.attributes("content") if "src" in value)


def test_tables_and_drawings_can_be_read_aloud(page: Page) -> None:
    assert all(attrs.get("aria-label") or "aria-hidden" in attrs for tag, attrs in page.elements if tag == "svg")
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.elements if tag == "th")
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1


def test_the_page_says_what_came_out(page: Page, written: Path) -> None:
    metrics = json.loads((written / "metrics.json").read_text(encoding="utf-8"))
    for model in ("base", "after_sft", "after_rl"):
        for system in ("system1", "system2"):
            assert f"{100 * metrics[model][f'{system}_accuracy']:.1f}%" in page.text
    assert "During RL, System 2 rose by" in page.text
    assert "are the base model itself" in page.text
    assert "auto: bfloat16, which this CPU computes natively" in page.text
    assert "16 System 2 rows as a warm-up" in page.text
    assert "--max-lora-rank 16" in page.text
    assert "3 rows were left out (answer beyond max length)" in page.text
    assert "nats, mean over rows" in page.text


def test_completions_that_were_kept_and_stalls_are_shown(page: Page) -> None:
    assert "Warning: in 5 steps on end (3 to 7) every completion was cut off at <64> tokens." in page.text
    for step in (1, 21, 40):
        assert f"Completions that step {step} learned from (1 of them)" in page.text
    assert "Of step 40: <b> cut off after 9 tokens" in page.text
    assert "1.5 exact_answer 0.5 my:judge none" in page.text


def test_the_step_that_was_picked_stands_with_every_adapter_that_was_asked(page: Page) -> None:
    assert "The one after step 20 of 40: better than the last one by the test." in page.text
    assert "Each answered the same 64 development rows" in page.text
    assert "20 (published) 41 12 2 p = 0.013 yes" in page.text


def test_rows_that_rl_was_kept_from_are_counted(page: Page) -> None:
    assert "it never solved 9 and always solved 11; RL learned from the other 44." in page.text
    assert "pass rate 0 0.5 1 rows 9 44 11" in page.text


def test_what_data_says_is_shown_and_never_markup(sources: ReportSources, tmp_path: Path) -> None:
    """A question, an answer and a model's text that would break out of a careless page."""
    assert sources.examples is not None
    assert sources.evaluation is not None
    rows = list(read_records(sources.examples / "examples.jsonl", Example))
    answers = list(read_records(sources.evaluation / "answers.jsonl", Answer))
    examples, evaluation = tmp_path / "examples", tmp_path / "evaluation"
    examples.mkdir()
    evaluation.mkdir()
    write_records(
        examples / "examples.jsonl",
        [row.model_copy(update={"question": HOSTILE, "answer": HOSTILE, "reference": HOSTILE}) for row in rows],
    )
    write_records(evaluation / "answers.jsonl", [answer.model_copy(update={"text": HOSTILE}) for answer in answers])
    write_report(replace(sources, examples=examples, evaluation=evaluation), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert page.text.count(" ".join(HOSTILE.split())) >= 10


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (("plan",), "its plan was never written"),
        (("evaluation",), "no held-out answers were scored"),
        (("evaluation", "published"), "no adapter was published"),
        (("evaluation", "published", "rl"), "RL did not finish"),
        (("evaluation", "published", "rl", "sft"), "nothing was trained"),
        (("evaluation", "published", "rl", "sft", "partition"), "the elements were not partitioned"),
        (("labels", "votes"), "the votes were not counted"),
    ],
)
def test_what_is_missing_is_reported(
    missing: tuple[str, ...],
    message: str,
    sources: ReportSources,
    without: Callable[..., ReportSources],
    tmp_path: Path,
) -> None:
    write_report(without(sources, *missing), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert f"This run did not get that far: {message}" in page.text
    assert ("evaluation (missing)" in page.text) is ("evaluation" in missing)


def test_nothing_at_all_still_makes_a_page(tmp_path: Path) -> None:
    write_report(ReportSources(), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.text.count("did not get that far") == len(SECTIONS) - 1
    assert "Times are known once a run has ended" in page.text


def test_a_broken_artifact_is_named_with_its_line(sources: ReportSources, tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"step": 1}\n{"step": \n', encoding="utf-8")
    with pytest.raises(BadInputError, match=r"history\.jsonl:2: not JSON"):
        write_report(replace(sources, sft=tmp_path), tmp_path)


def test_a_large_run_stays_small(large: ReportSources, tmp_path: Path) -> None:
    """80 layers, 3,000 steps and long answers: what the report shows is bounded, whatever the run's size."""
    write_report(large, tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    Page((tmp_path / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def large(sources: ReportSources, tmp_path: Path) -> ReportSources:
    """The made-up run with its partition, history and answers blown up."""
    assert sources.partition is not None
    assert sources.evaluation is not None
    summary = json.loads((sources.partition / "summary.json").read_text(encoding="utf-8"))
    summary["regions"] = [{**row, "layer": layer} for layer in range(80) for row in summary["regions"][:6]]
    summary["scatter"] = {name: values * 20 for name, values in summary["scatter"].items()}
    for name in ("partition", "sft", "evaluation"):
        (tmp_path / name).mkdir()
    (tmp_path / "partition/summary.json").write_text(json.dumps(summary), encoding="utf-8")
    steps = (json.dumps({"step": step, "loss": 1 / step, "grad_norm": 1.0}) for step in range(1, 3001))
    (tmp_path / "sft/history.jsonl").write_text("\n".join(steps), encoding="utf-8")
    answers = read_records(sources.evaluation / "answers.jsonl", Answer)
    long = [answer.model_copy(update={"text": "so then <b> " * 20_000}) for answer in answers]
    write_records(tmp_path / "evaluation/answers.jsonl", long)
    made = {name: tmp_path / name for name in ("partition", "sft", "evaluation")}
    return replace(sources, **made)


def test_a_calibrated_vote_and_a_failed_teacher_are_shown(sources) -> None:
    facts = read_facts(sources)
    assert facts.voting is not None
    plain = {"rows": {"system1": 4}, "system1_share": {}, "gold_accuracy": None, "changed_rows": 17}
    more = {"failed": {"far": "teacher 'far': <no> answer"}, "without_calibration": plain}
    page = render_page(replace(facts, voting={**facts.voting, **more}))
    assert "With and without calibration" in page
    assert "17 rows another label" in page
    assert "The vote went on without far" in page
    assert "&lt;no&gt; answer" in page
    assert "With and without calibration" not in render_page(facts)


def test_compiled_templates_make_the_same_page(sources: ReportSources, tmp_path: Path, monkeypatch) -> None:
    """As an image has them; without them a task spends 0.1 s of processor time on compiling."""
    facts, moment = read_facts(sources), re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
    before = render_page(facts)
    pages.compile_templates(tmp_path)
    monkeypatch.setattr(pages, "COMPILED", tmp_path)
    monkeypatch.setattr(pages, "FOLDER", tmp_path / "no templates here")
    compiled = pages.environment.__wrapped__()
    monkeypatch.setattr(pages, "environment", lambda: compiled)
    assert moment.sub("", render_page(facts)) == moment.sub("", before)


def test_an_image_compiles_its_templates() -> None:
    """A checkout does not: it would show what they once were."""
    script = (Path(__file__).parents[2] / "images" / "install-lorapar.sh").read_text(encoding="utf-8")
    assert "page.compile_templates()" in script
    assert not pages.COMPILED.exists()
