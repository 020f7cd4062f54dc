"""Folders as they are, copied up and down: seen whole or not at all, never replaced under a reader."""

import pytest

from lorapar.errors import BadInputError, IntegrityError
from lorapar.store import NotFoundError, open_store
from lorapar.store.copy import copy_down, copy_up, find_tree
from lorapar.store.s3_parts import UPLOAD_PART_BYTES, WHOLE_BELOW_BYTES, part_etag


@pytest.fixture
def folder(tmp_path):
    """A folder as some tool left it: no manifest, a hidden file."""
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "weights.safetensors").write_bytes(bytes(5000))
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    return folder


def test_up_and_down_again(folder, store, tmp_path):
    manifest = copy_up(folder, store, "model x@1")
    assert sorted(manifest.files) == ["config.json", "deep/weights.safetensors"], "hidden files stay"
    assert [info.key for info in store.list()] == ["config.json", "deep/weights.safetensors", "manifest.json"]
    tree = find_tree(store)
    copy_down(tree, tmp_path / "copy")
    assert (tmp_path / "copy" / "deep" / "weights.safetensors").read_bytes() == bytes(5000)
    assert not (folder / "manifest.json").exists(), "the source is not ours to change"


def test_a_second_call_is_no_error_and_another_tree_is(folder, store):
    first = copy_up(folder, store, "model x@1")
    assert copy_up(folder, store, "model elsewhere@2") == first
    (folder / "config.json").write_text('{"other": 1}')
    with pytest.raises(BadInputError, match="another tree lies there already"):
        copy_up(folder, store, "model")
    assert store.read("config.json") == b"{}"


def test_a_tree_with_a_damaged_file_does_not_come_down(folder, store, tmp_path):
    copy_up(folder, store, "model")
    store.write("config.json", b"[]")
    with pytest.raises(IntegrityError, match=r"config\.json"):
        copy_down(find_tree(store), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_tree_of_another_tool_is_known_by_its_versions(store, tmp_path):
    store.write("config.json", b"{}")
    store.write("weights.safetensors", b"123")
    first = find_tree(store)
    copy_down(first, tmp_path / "copy")
    assert (tmp_path / "copy" / "weights.safetensors").read_bytes() == b"123"
    store.write("weights.safetensors", b"124")
    assert find_tree(store).digest != first.digest
    with pytest.raises(IntegrityError, match="was replaced meanwhile"):
        copy_down(first, tmp_path / "again")


def test_the_digest_of_a_manifest_tree_is_that_of_the_local_folder(folder, store):
    from lorapar.basemodel.resolve import _local_digest
    from lorapar.config import ModelConfig

    (folder / "model.safetensors").write_bytes(b"")
    copy_up(folder, store, "model")
    assert find_tree(store).digest == _local_digest(ModelConfig(name=str(folder)))


def test_nothing_at_an_address(tmp_path):
    with pytest.raises(NotFoundError, match="there is nothing at this address"):
        find_tree(open_store(tmp_path / "nowhere"))


def test_etag_of_one_part_is_the_md5_and_of_several_the_md5_of_md5s(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"hello")
    assert part_etag(file) == '"5d41402abc4b2a76b9719d911017c592"'
    with file.open("wb") as stream:
        stream.truncate(WHOLE_BELOW_BYTES + 1)
    assert part_etag(file).endswith(f'-{WHOLE_BELOW_BYTES // UPLOAD_PART_BYTES + 1}"')
