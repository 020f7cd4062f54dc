"""A person's last word, from a real run folder and back: only what depends on an edit runs again."""

from __future__ import annotations

import csv

import pytest

from lorapar.config import load_config
from lorapar.errors import BadInputError
from lorapar.local.edits import export_rows, import_edits
from lorapar.local.folder import RunFolder
from lorapar.local.runner import run_local
from lorapar.progress import Silent
from lorapar.records import Example, Label, read_records


class Recorder(Silent):
    """Remembers what each node said."""

    def __init__(self, title, lines) -> None:
        self.title, self.lines = title, lines

    def __enter__(self):
        return self

    def __exit__(self, *_error) -> None:
        pass

    def log(self, line) -> None:
        """Remember it under the node's name."""
        self.lines.append((self.title.split()[1].rstrip(":"), line))


@pytest.fixture(scope="module")
def voted(tmp_path_factory):
    """A run of the tiny preset up to the last tally."""
    folder = RunFolder(tmp_path_factory.mktemp("edits") / "run")
    run(folder)
    return folder


def run(folder):
    """Run or continue it; the nodes that ran."""
    lines = []
    run_local(load_config(preset="tiny"), folder.root, lambda title: Recorder(title, lines), until="tally")
    return {node for node, line in lines if line.startswith("done in")} - {"plan"}


def labels(folder):
    return {
        label.example_id: label for label in read_records(folder.artifact("tally", "labels") / "labels.jsonl", Label)
    }


def ids(folder, system):
    return {row.id for row in read_records(folder.artifact("tally", system) / "examples.jsonl", Example)}


def table(file):
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def test_contested_rows_come_with_their_votes_least_agreement_first(voted, tmp_path) -> None:
    done = export_rows(voted, tmp_path / "contested.csv", every_row=False)
    rows, given = table(tmp_path / "contested.csv"), labels(voted)
    assert 0 < done.rows == len(rows) < done.voted == len(given)
    assert list(rows[0]) == [
        *("example_id", "edited", "label", "agreement"),
        *("forward", "preposition", "tempo"),
        *("question", "answer"),
    ]
    assert [float(row["agreement"]) for row in rows] == sorted(float(row["agreement"]) for row in rows)
    for row in rows:
        assert row["label"] == given[row["example_id"]].system
        message = {row[name].split()[0] for name in ("forward", "preposition", "tempo") if row[name]}
        assert message == {"system1", "system2"}
        assert row["edited"] == ""
    assert export_rows(voted, tmp_path / "all.csv", every_row=True).rows == done.voted


def test_an_edited_label_re_runs_the_last_tally_only_and_is_taken(voted, tmp_path) -> None:
    assert run(voted) == set()
    before = labels(voted)
    edited = next(row for row in before if before[row].system == "system1" and row in ids(voted, "system1"))
    file = tmp_path / "edits.csv"
    file.write_text(f"example_id,edited\n{edited},system2\n", encoding="utf-8")
    assert import_edits(voted, file) == 1
    assert run(voted) == {"tally"}
    assert edited in ids(voted, "system2")
    assert labels(voted)[edited].edited
    export_rows(voted, tmp_path / "again.csv", every_row=False)
    assert {row["example_id"]: row["edited"] for row in table(tmp_path / "again.csv")}[edited] == "system2"

    file.write_text("example_id,edited\n", encoding="utf-8")
    assert import_edits(voted, file) == 0
    assert run(voted) == {"tally"}
    assert labels(voted) == before


def test_an_export_replaces_a_file_only_where_nothing_typed_is_lost(voted, tmp_path) -> None:
    file = tmp_path / "votes.csv"
    for _ in range(2):
        export_rows(voted, file, every_row=False)
    written = file.read_text(encoding="utf-8")
    row = table(file)[0]["example_id"]
    typed = written.replace(f"\n{row},,", f"\n{row},system2,")
    file.write_text(typed, encoding="utf-8")
    with pytest.raises(BadInputError, match=r"votes.csv: holds 1 edited labels that this run does not have; take them"):
        export_rows(voted, file, every_row=False)
    assert file.read_text(encoding="utf-8") == typed
    import_edits(voted, file)
    export_rows(voted, file, every_row=False)
    voted.edits.unlink()

    for other in ("example_id,edited\nx,sytsem2\n", "my diary\n"):
        file.write_text(other, encoding="utf-8")
        with pytest.raises(BadInputError, match=r"it was not replaced, give another --file"):
            export_rows(voted, file, every_row=False)
        assert file.read_text(encoding="utf-8") == other


def test_what_does_not_fit_the_run_is_refused(voted, tmp_path) -> None:
    file = tmp_path / "edits.csv"
    file.write_text("example_id,edited\nnobody,system2\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"edits.csv: row nobody is not among the \d+ rows"):
        import_edits(voted, file)
    with pytest.raises(BadInputError, match=r"nothing.csv: cannot be read"):
        import_edits(voted, tmp_path / "nothing.csv")
    with pytest.raises(BadInputError, match="no vote has been counted there"):
        export_rows(RunFolder(tmp_path), tmp_path / "votes.csv", every_row=False)
