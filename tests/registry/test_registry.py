"""Versions, aliases and pulling, by one process; the races are in test_races.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lorapar.errors import BadInputError, IntegrityError, StaleError
from lorapar.registry import Registry, content_manifest
from lorapar.store import open_store, verify

WEIGHTS = "adapter_model.safetensors"


def package(folder: Path, content: str) -> Path:
    """A folder that looks like an adapter; the registry does not look inside."""
    (folder / "figures").mkdir(parents=True)
    (folder / WEIGHTS).write_text(content)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "figures" / "reward.svg").write_text("<svg/>")
    return folder


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(open_store(tmp_path / "registry"))


@pytest.fixture
def three(registry, tmp_path) -> Registry:
    """A registry with three versions of `maths`."""
    for number in (1, 2, 3):
        assert registry.publish("maths", package(tmp_path / f"p{number}", f"weights {number}")).number == number
    return registry


def files(registry: Registry) -> set[str]:
    return {entry.key for entry in registry.store.list()}


def test_versions_count_up_and_lie_where_the_layout_says(three) -> None:
    assert three.names() == ["maths"]
    assert three.versions("maths") == [1, 2, 3]
    assert {"adapters/maths/2/manifest.json", f"adapters/maths/2/{WEIGHTS}", "adapters/maths/2/figures/reward.svg"} <= (
        files(three)
    )
    assert three.versions("nobody") == []


def test_the_same_content_again_is_the_version_that_has_it(three, tmp_path) -> None:
    before = files(three)
    again = three.publish("maths", package(tmp_path / "again", "weights 2"))
    assert (again.number, files(three)) == (2, before)
    assert three.find("maths", again.digest) == again
    assert three.find("maths", "0" * 64) is None
    # Another adapter with this content is a version of its own.
    assert three.publish("other", package(tmp_path / "other", "weights 2")).number == 1


def test_a_seal_of_the_run_is_no_part_of_the_content(tmp_path) -> None:
    from lorapar.store import seal

    folder = package(tmp_path / "p", "x")
    before = content_manifest(folder)
    seal(folder, "publish.adapter")
    assert content_manifest(folder) == before


@pytest.mark.parametrize("arrived", [0, 2, 3])
def test_a_killed_publisher_is_finished_by_the_next(three, tmp_path, monkeypatch, arrived: int) -> None:
    """Killed before any file, after some and after all: only the manifest makes them a version."""
    folder = package(tmp_path / "new", "weights 4")
    real = three.store.upload_all

    def die(transfers) -> None:
        assert len(transfers) == 3
        real(transfers[:arrived])
        raise KeyboardInterrupt

    monkeypatch.setattr(three.store, "upload_all", die)
    with pytest.raises(KeyboardInterrupt):
        three.publish("maths", folder)
    monkeypatch.undo()
    assert three.versions("maths") == [1, 2, 3], "a version without manifest is not there"
    with pytest.raises(BadInputError, match="maths@4: not in the registry"):
        three.resolve("maths@4")
    other = three.publish("maths", package(tmp_path / "other", "weights 5"))
    assert other.number == 5
    assert three.publish("maths", folder).number == 4
    assert three.versions("maths") == [1, 2, 3, 4, 5]


def test_names_that_are_one_folder_on_this_file_system_are_refused(three, tmp_path, monkeypatch) -> None:
    for number in (1, 2):
        assert three.publish("Maths", package(tmp_path / f"other{number}", f"other {number}")).number == number
    # What a file system of one case shows: the other way of writing a name is there, and in no listing.
    (Path(three.address) / "adapters" / "MATHS").symlink_to("Maths")
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda place: sorted(set(real(place)) - {"MATHS"}))
    monkeypatch.setattr(three, "names", lambda: pytest.fail("it lists every file of the registry"))
    with pytest.raises(BadInputError, match=r"'Maths' is there already, and this file system takes 'MATHS' for the"):
        three.publish("MATHS", package(tmp_path / "again", "again"))
    assert three.publish("maths", package(tmp_path / "fine", "fine")).number == 4


@pytest.mark.parametrize("nothing", ["maths@9", "maths@candidate", "maths", "nobody", "nobody@1"])
def test_what_is_not_there_is_refused_by_name(three, nothing) -> None:
    with pytest.raises(BadInputError, match=nothing.partition("@")[0]):
        three.resolve(nothing)


def test_an_alias_moves_only_from_where_it_was_expected(three) -> None:
    three.move_alias("maths", "production", 1, expected=None, reason="first")
    assert three.resolve("maths").number == 1
    for wrong in (None, 3):
        with pytest.raises(StaleError, match="names version 1, not"):
            three.move_alias("maths", "production", 2, expected=wrong)
    assert three.read_alias("maths", "production").version == 1
    moved = three.move_alias("maths", "production", 2, expected=1, reason="better")
    assert [(move.version, move.reason) for move in moved.moves] == [(1, "first"), (2, "better")]
    assert moved.digest == three.resolve("maths@2").digest
    assert three.resolve("maths@production").number == 2
    # A retried pod asks for what it has done already.
    assert three.move_alias("maths", "production", 2, expected=1) == moved
    with pytest.raises(BadInputError, match="maths@7"):
        three.move_alias("maths", "production", 7, expected=2)


def test_a_rollback_goes_back_through_the_promotions(three) -> None:
    for number, expected in ((1, None), (2, 1), (3, 2)):
        three.move_alias("maths", "production", number, expected=expected)
    assert three.read_alias("maths", "production").before == 2
    record = three.move_alias("maths", "production", 2, expected=3, rollback=True)
    assert record.before == 1, "rolling back again goes further back, not forward again"
    assert record.rolled_back(3) is not None
    assert record.rolled_back(1) is None
    record = three.move_alias("maths", "production", 1, expected=2, rollback=True)
    assert record.before is None
    record = three.move_alias("maths", "production", 3, expected=1, reason="fixed elsewhere")
    assert (record.before, record.rolled_back(3)) == (1, None)
    assert record.rolled_back(2) is not None


def test_the_last_publisher_sets_candidate_and_a_canary_ends_with_the_move(three) -> None:
    three.set_alias("maths", "candidate", 2)
    record = three.set_share("maths", "candidate", 2, 10.0)
    assert (record.version, record.share_percent) == (2, 10.0)
    with pytest.raises(StaleError, match="not version 3"):
        three.set_share("maths", "candidate", 3, 50.0)
    assert three.set_alias("maths", "candidate", 2).share_percent == 10.0
    assert three.set_alias("maths", "candidate", 3).share_percent == 0.0
    assert set(three.aliases("maths")) == {"candidate"}


def test_what_is_pulled_is_what_was_published(three, tmp_path) -> None:
    version = three.pull("maths@2", tmp_path / "here" / "maths")
    assert (tmp_path / "here" / "maths" / WEIGHTS).read_text() == "weights 2"
    assert verify(tmp_path / "here" / "maths").digest == version.digest
    three.pull("maths@3", tmp_path / "here" / "maths")
    assert (tmp_path / "here" / "maths" / WEIGHTS).read_text() == "weights 3"
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["maths"]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damage_is_refused_and_what_was_there_stays(three, tmp_path, damage) -> None:
    three.pull("maths@1", tmp_path / "maths")
    key = f"adapters/maths/2/{WEIGHTS}"
    three.store.delete(key) if damage == "missing" else three.store.write(key, b"weights X")
    with pytest.raises(IntegrityError, match=f"{key}.*(missing|not those)"):
        three.pull("maths@2", tmp_path / "maths")
    assert (tmp_path / "maths" / WEIGHTS).read_text() == "weights 1"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_manifest_cannot_write_outside_the_folder(three, tmp_path) -> None:
    key = "adapters/maths/2/manifest.json"
    manifest = json.loads(three.store.read(key))
    manifest["files"]["../../../outside"] = manifest["files"][WEIGHTS]
    three.store.write(key, json.dumps(manifest).encode())
    with pytest.raises(IntegrityError, match=r"not (inside it|the name of a file in the folder)"):
        three.pull("maths@2", tmp_path / "deep" / "er" / "maths")
    assert not (tmp_path / "outside").exists()


def test_verdicts_lie_beside_the_version_and_repeat_nothing(three) -> None:
    version, before = three.resolve("maths@2"), files(three)
    for verdict in ({"better": False}, {"better": True}, {"better": True}):
        three.add_verdict(version, verdict)
    assert three.verdicts(version) == [{"better": False}, {"better": True}]
    assert files(three) - before == {"adapters/maths/verdicts/2.json"}
    assert three.versions("maths") == [1, 2, 3]


def test_the_claim_says_who_and_from_where(three, tmp_path) -> None:
    from lorapar.registry import new_claim

    folder = package(tmp_path / "new", "weights 4")
    digest, images = content_manifest(folder).digest, {"trainer": "x@sha256:1"}
    claim = new_claim(digest, run="host:/runs/a", images=images, verification={"mean_kl": 0.0})
    version = three.publish("maths", folder, claim)
    assert three.claim(version) == claim
    assert "@" in claim.by
