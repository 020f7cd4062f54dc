"""Collecting: what is kept, what goes, and what a racing promotion sees."""

from __future__ import annotations

import pytest

from lorapar.errors import BadInputError, StaleError
from lorapar.registry import Registry
from lorapar.registry.collect import Retention, collect, collectable
from lorapar.registry.layout import manifest_key
from lorapar.store import open_store

AT_ONCE = Retention(last=1, grace_seconds=-1.0)


def add(registry: Registry, tmp_path, content: str) -> int:
    folder = tmp_path / content
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_text(content)
    return registry.publish("maths", folder).number


@pytest.fixture
def registry(tmp_path) -> Registry:
    """Six versions; production went 1, 2, 4 and candidate is 5."""
    made = Registry(open_store(tmp_path / "registry"))
    for number in range(1, 7):
        assert add(made, tmp_path, f"w{number}") == number
    for number, expected in ((1, None), (2, 1), (4, 2)):
        made.move_alias("maths", "production", number, expected=expected)
    made.set_alias("maths", "candidate", 5)
    return made


def numbers(registry, retention) -> list[int]:
    return [version.number for version in collectable(registry, "maths", retention)]


def test_aliased_rollback_target_newest_and_young_are_kept(registry) -> None:
    assert numbers(registry, AT_ONCE) == [1, 3]
    assert numbers(registry, Retention(last=4, grace_seconds=-1.0)) == [1]
    assert numbers(registry, Retention(last=0, grace_seconds=-1.0)) == [1, 3, 6]
    assert numbers(registry, Retention(last=0, grace_seconds=3600.0)) == []


def test_what_is_collected_is_gone_and_its_number_is_not_used_again(registry, tmp_path) -> None:
    version = registry.resolve("maths@3")
    registry.add_verdict(version, {"better": False})
    assert collect(registry, version)
    assert registry.versions("maths") == [1, 2, 4, 5, 6]
    left = {entry.key for entry in registry.store.list("adapters/maths/3/")}
    assert left == {"adapters/maths/3/claim.json"}
    with pytest.raises(BadInputError, match="maths@3"):
        registry.resolve("maths@3")
    assert registry.find("maths", version.digest) is None
    assert add(registry, tmp_path, "w3") == 7, "the content may come back, under a new number"
    assert add(registry, tmp_path, "w3") == 7
    assert registry.verdicts(version) == [{"better": False}]


def test_a_promotion_in_the_middle_of_a_collection_wins(registry, tmp_path, monkeypatch) -> None:
    version = registry.resolve("maths@3")
    delete = registry.store.delete

    def promoted_meanwhile(key: str) -> None:
        # The promoter has looked, and swaps just before the manifest goes.
        registry.alias_store.set("candidate", version, _move(version))
        delete(key)

    monkeypatch.setattr(registry.store, "delete", promoted_meanwhile)
    assert not collect(registry, version)
    monkeypatch.undo()
    assert registry.resolve("maths@candidate") == version
    registry.pull("maths@3", tmp_path / "pulled")
    assert registry.find("maths", version.digest) == version


def test_a_promotion_after_a_collection_is_taken_back(registry, monkeypatch) -> None:
    version = registry.resolve("maths@3")
    real = registry.alias_store.set

    def collected_meanwhile(*arguments):
        assert collect(registry, version)
        return real(*arguments)

    monkeypatch.setattr(registry.alias_store, "set", collected_meanwhile)
    with pytest.raises(StaleError, match="maths@3 was collected while maths@candidate"):
        registry.set_alias("maths", "candidate", 3)
    assert registry.resolve("maths@candidate").number == 5


def test_a_publisher_in_the_middle_of_a_collection_gets_a_new_number(registry, tmp_path, monkeypatch) -> None:
    """It has read that the content is version 3, and then finds no manifest."""
    version = registry.resolve("maths@3")
    real, asked = registry.version_store.manifest, []

    def collected_meanwhile(name: str, number: int):
        if not asked:
            asked.append(number)
            assert collect(registry, version)
        return real(name, number)

    monkeypatch.setattr(registry.version_store, "manifest", collected_meanwhile)
    assert add(registry, tmp_path, "w3") == 7
    assert asked == [3]
    assert registry.store.exists(manifest_key("maths", 7))
    assert not registry.store.exists(manifest_key("maths", 3))


def _move(version):
    from lorapar.registry.aliases import move_to

    return move_to(version, "in between")
