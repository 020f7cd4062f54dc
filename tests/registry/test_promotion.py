"""By hand: promotion on a verdict, with a reason, by a share of the requests, and back."""

from __future__ import annotations

import pytest

from lorapar.cli import main
from lorapar.errors import BadInputError, ExitCode, IntegrityError, NotBetterError, StaleError
from lorapar.registry import Registry
from lorapar.registry.promotion import promote, promote_by_hand, roll_back, start_canary
from lorapar.registry.verdicts import Incumbent, PublishedVersion, Verdict
from lorapar.store import open_store


@pytest.fixture
def registry(tmp_path) -> Registry:
    """Three versions, the first in production."""
    made = Registry(open_store(tmp_path / "registry"))
    for number in (1, 2, 3):
        folder = tmp_path / f"p{number}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_text(f"w{number}")
        made.publish("maths", folder)
    made.move_alias("maths", "production", 1, expected=None)
    return made


def verdict(registry, number: int, *, better: bool, against: int | None) -> None:
    incumbent = {"version": against, "digest": "d"} if against else None
    version = registry.resolve(f"maths@{number}")
    registry.add_verdict(version, {"better": better, "reasons": ["system2: +3.0 points"], "incumbent": incumbent})


def test_a_verdict_against_what_is_in_production_is_enough(registry) -> None:
    verdict(registry, 2, better=True, against=1)
    first = promote_by_hand(registry, registry.resolve("maths@2"), None)
    assert (first.version, first.reason) == (2, "maths@production moved from version 1 to version 2")
    again = promote_by_hand(registry, registry.resolve("maths@2"), None)
    assert (again.version, again.reason) == (2, "maths@production already names version 2; nothing changed")
    assert len(registry.read_alias("maths", "production").moves) == 2


def test_without_such_a_verdict_only_a_reason_moves_it(registry) -> None:
    version = registry.resolve("maths@2")
    with pytest.raises(NotBetterError, match=r"maths@2: no gate has judged it; give --override"):
        promote_by_hand(registry, version, None)
    verdict(registry, 2, better=True, against=1)
    verdict(registry, 2, better=False, against=1)
    with pytest.raises(NotBetterError, match="said not better"):
        promote_by_hand(registry, version, None)
    verdict(registry, 2, better=True, against=3)
    with pytest.raises(StaleError, match="judged against version 3, and production names version 1"):
        promote_by_hand(registry, version, None)
    assert registry.resolve("maths").number == 1
    promote_by_hand(registry, version, "the old one leaks")
    record = registry.read_alias("maths", "production")
    assert (record.version, record.reason) == (2, "by hand: the old one leaks")


@pytest.mark.parametrize(
    ("against", "code", "words"),
    [
        (None, ExitCode.NOT_BETTER, "lorapar: maths@2: no gate has judged it"),
        (3, ExitCode.STALE, "lorapar: maths@2: gate stale: it was judged against version 3, and production names"),
        (1, ExitCode.OK, "maths@production moved from version 1 to version 2"),
    ],
)
def test_the_command_ends_with_the_code_of_the_verdict(registry, monkeypatch, capsys, against, code, words) -> None:
    if against is not None:
        verdict(registry, 2, better=True, against=against)
    monkeypatch.setattr("sys.argv", ["lorapar", "adapters", "promote", "maths@2", "--registry", registry.store.address])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert words in "".join(capsys.readouterr())


def test_a_verdict_that_is_reported_again_after_another_one_is_the_last(registry) -> None:
    for better in (False, True, False, False):  # say, the same strict settings again after looser ones
        verdict(registry, 2, better=better, against=1)
    version = registry.resolve("maths@2")
    assert [one["better"] for one in registry.verdicts(version)] == [False, True, False]
    with pytest.raises(NotBetterError, match="said not better"):
        promote_by_hand(registry, version, None)


def test_a_rollback_names_where_it_may_go(registry) -> None:
    with pytest.raises(BadInputError, match="has named nothing before it"):
        roll_back(registry, "maths", "production", None, "")
    for number, expected in ((2, 1), (3, 2)):
        registry.move_alias("maths", "production", number, expected=expected)
    assert roll_back(registry, "maths", "production", None, "slow").version == 2
    assert roll_back(registry, "maths", "production", 1, "slow").version == 1
    with pytest.raises(BadInputError, match=r"never named version 9; it named 2, 3 too, `--to NUMBER` goes there"):
        roll_back(registry, "maths", "production", 9, "")
    with pytest.raises(BadInputError, match="--to 1: it names version 1 already; nothing changed"):
        roll_back(registry, "maths", "production", 1, "")
    with pytest.raises(BadInputError, match="no such alias"):
        roll_back(registry, "maths", "candidate", None, "")


def test_a_canary_is_a_share_for_the_candidate(registry) -> None:
    record = start_canary(registry, registry.resolve("maths@3"), 10.0)
    assert (record.version, record.share_percent) == (3, 10.0)
    assert registry.resolve("maths").number == 1
    assert start_canary(registry, registry.resolve("maths@3"), 0.0).share_percent == 0.0
    with pytest.raises(BadInputError, match="from 0 to 100"):
        start_canary(registry, registry.resolve("maths@3"), 101.0)


def test_a_move_of_production_ends_the_canary_so_a_rollback_does_not_bring_it_back(registry) -> None:
    start_canary(registry, registry.resolve("maths@2"), 10.0)
    promote_by_hand(registry, registry.resolve("maths@2"), "looks good")
    candidate = registry.read_alias("maths", "candidate")
    assert (candidate.version, candidate.share_percent) == (2, 0.0)
    assert candidate.share_reason == "production moved to version 2"
    start_canary(registry, registry.resolve("maths@3"), 10.0)
    roll_back(registry, "maths", "production", None, "")
    assert registry.read_alias("maths", "candidate").share_percent == 0.0


def judged(registry, number: int) -> tuple[PublishedVersion, Verdict]:
    """version.json and a better verdict, as a run has them, against version 1."""
    version = registry.resolve(f"maths@{number}")
    incumbent = Incumbent(version=1, digest=registry.resolve("maths@1").digest)
    candidate = Incumbent(version=number, digest=version.digest)
    published = PublishedVersion(
        registry=registry.address, name="maths", version=number, digest=version.digest, incumbent=incumbent
    )
    reasons = ("system2: +3.0 points",)
    return published, Verdict(
        better=True, reasons=reasons, candidate=candidate, incumbent=incumbent, settings={}, figures={}
    )


def test_a_run_that_is_repeated_says_that_nothing_changed_and_leaves_a_canary_alone(registry) -> None:
    published, better = judged(registry, 2)
    assert promote(registry, published, better).reason == "maths@production moved from version 1 to version 2"
    start_canary(registry, registry.resolve("maths@3"), 10.0)
    again = promote(registry, published, better)
    assert (again.promoted, again.reason) == (True, "maths@production already names version 2; nothing changed")
    assert len(registry.read_alias("maths", "production").moves) == 2
    assert registry.read_alias("maths", "candidate").share_percent == 10.0


def test_a_promotion_killed_before_it_ended_the_canary_is_completed_by_a_repeated_one(registry) -> None:
    published, better = judged(registry, 2)
    start_canary(registry, registry.resolve("maths@2"), 10.0)
    registry.set_alias("maths", "production", 2)
    promote(registry, published, better)
    assert registry.read_alias("maths", "candidate").share_percent == 0.0


def test_a_run_promotes_no_version_whose_bytes_or_manifest_changed_since_its_gate(registry, tmp_path) -> None:
    folder = tmp_path / "registry" / "adapters" / "maths" / "2"
    published, better = judged(registry, 2)
    (folder / "adapter_model.safetensors").write_text("W2")
    with pytest.raises(IntegrityError, match="its bytes are not those the manifest names"):
        promote(registry, published, better)
    other = tmp_path / "registry" / "adapters" / "maths" / "3"
    for file in ("adapter_model.safetensors", "manifest.json"):
        (folder / file).write_bytes((other / file).read_bytes())
    with pytest.raises(IntegrityError, match="not that of the version the gate judged"):
        promote(registry, published, better)
    assert registry.resolve("maths").number == 1


def test_an_empty_reason_is_no_reason(registry) -> None:
    with pytest.raises(BadInputError, match="--override is empty"):
        promote_by_hand(registry, registry.resolve("maths@2"), " ")
    assert registry.resolve("maths").number == 1


@pytest.mark.parametrize("bytes_there", [b"w2x", b"W2", None], ids=["longer", "same length", "missing"])
def test_a_damaged_version_does_not_become_production_until_it_is_published_again(
    registry, tmp_path, bytes_there
) -> None:
    weights = tmp_path / "registry" / "adapters" / "maths" / "2" / "adapter_model.safetensors"
    weights.unlink()
    if bytes_there is not None:
        weights.write_bytes(bytes_there)
    version = registry.resolve("maths@2")
    with pytest.raises(IntegrityError, match=r"2/adapter_model.safetensors: missing, or its bytes are not those"):
        promote_by_hand(registry, version, "trust me")
    assert registry.resolve("maths").number == 1
    assert registry.restore(version, tmp_path / "p2") == ["adapter_model.safetensors"]
    assert promote_by_hand(registry, version, "trust me").version == 2


def test_neither_a_rollback_nor_a_canary_goes_to_a_damaged_version(registry, tmp_path) -> None:
    registry.move_alias("maths", "production", 2, expected=1)
    weights = tmp_path / "registry" / "adapters" / "maths" / "1" / "adapter_model.safetensors"
    weights.write_bytes(b"W1")
    for act in (
        lambda: roll_back(registry, "maths", "production", None, ""),
        lambda: start_canary(registry, registry.resolve("maths@1"), 10.0),
    ):
        with pytest.raises(IntegrityError, match=r"1/adapter_model.safetensors: .*maths@1 cannot be used"):
            act()
    assert registry.resolve("maths").number == 2
    assert registry.read_alias("maths", "candidate") is None
    assert start_canary(registry, registry.resolve("maths@1"), 0.0).share_percent == 0.0, "ending one always goes"


def test_a_restored_version_can_be_pulled_and_needs_nothing_more(registry, tmp_path) -> None:
    weights = tmp_path / "registry" / "adapters" / "maths" / "2" / "adapter_model.safetensors"
    weights.write_text("W2")
    assert registry.restore(registry.resolve("maths@2"), tmp_path / "p2") == ["adapter_model.safetensors"]
    assert registry.pull("maths@2", tmp_path / "pulled").number == 2
    assert registry.restore(registry.resolve("maths@2"), tmp_path / "p2") == []
