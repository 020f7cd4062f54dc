"""Folders go into the store by content and come back whole, verified, or not at all."""

import os

import pytest

from lorapar.errors import IntegrityError
from lorapar.store import Manifest, fetch_texts, fetch_tree, put_tree, read_manifest, seal, verify
from lorapar.store.tree import RENEW_AFTER_SECONDS


class Counting:
    """A store that counts what goes up and down."""

    def __init__(self, store):
        self._store = store
        self.moved = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    def upload_all(self, transfers, moved=None):
        transfers = list(transfers)
        self.moved += [transfer.key for transfer in transfers]
        self._store.upload_all(transfers, moved)

    def download_all(self, transfers, moved=None):
        for transfer in transfers:
            self._store.download_all([transfer], moved)
            self.moved.append(transfer.path.name)


def test_there_and_back(store, tree, tmp_path):
    manifest = put_tree(store, tree)
    assert manifest == read_manifest(tree)
    fetch_tree(store, manifest, tmp_path / "copy")
    assert verify(tmp_path / "copy").digest == manifest.digest
    assert (tmp_path / "copy" / "deep" / "twin.bin").read_bytes() == (tree / "one.bin").read_bytes()
    assert len(list(store.list("cas/"))) == 3, "equal bytes lie there once"


def test_a_second_call_uploads_only_what_is_missing(store, tree):
    counting = Counting(store)
    manifest = put_tree(counting, tree)
    gone = f"cas/{manifest.files['rows.jsonl'].sha256}"
    store.delete(gone)
    counting.moved.clear()
    put_tree(counting, tree)
    assert counting.moved == [gone]


def test_content_cut_short_by_somebody_is_uploaded_again(store, tree, tmp_path):
    manifest = put_tree(store, tree)
    store.write(f"cas/{manifest.files['one.bin'].sha256}", b"short")
    put_tree(store, tree)
    fetch_tree(store, manifest, tmp_path / "copy")
    assert (tmp_path / "copy" / "one.bin").read_bytes() == (tree / "one.bin").read_bytes()


def test_old_content_is_young_again_once_a_new_tree_takes_it_up(store, tree):
    manifest = put_tree(store, tree)
    key = f"cas/{manifest.files['one.bin'].sha256}"
    long_ago = next(store.list(key)).modified - 2 * RENEW_AFTER_SECONDS
    os.utime(store.root / key, (long_ago, long_ago))
    put_tree(store, tree)
    assert next(store.list(key)).modified > long_ago + RENEW_AFTER_SECONDS


def test_a_file_changed_since_it_was_sealed_is_refused(store, tree):
    (tree / "rows.jsonl").write_bytes(b'{"a": 2}\n')
    with pytest.raises(IntegrityError, match=r"rows\.jsonl"):
        put_tree(store, tree)


def test_a_file_gone_since_it_was_sealed_is_named(store, tree):
    (tree / "rows.jsonl").unlink()
    with pytest.raises(IntegrityError, match=r"rows\.jsonl: named in the manifest but missing"):
        put_tree(store, tree)


def test_damaged_content_is_refused_and_the_old_folder_stays(store, tree, tmp_path):
    manifest = put_tree(store, tree)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "old").touch()
    sha256 = manifest.files["rows.jsonl"].sha256
    store.write(f"cas/{sha256}", b'{"a": 7}\n')
    with pytest.raises(IntegrityError, match=sha256[:12]):
        fetch_tree(store, manifest, tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["old"]


def test_missing_content_says_what_to_do(store, tree, tmp_path):
    manifest = put_tree(store, tree)
    store.delete(f"cas/{manifest.files['empty'].sha256}")
    with pytest.raises(IntegrityError, match="run the stage that made it again"):
        fetch_tree(store, manifest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_an_interrupted_fetch_goes_on_where_it_stopped(store, tree, tmp_path):
    manifest = put_tree(store, tree)
    missing = f"cas/{manifest.files['rows.jsonl'].sha256}"
    data = store.read(missing)
    store.delete(missing)
    first, second = Counting(store), Counting(store)
    with pytest.raises(IntegrityError):
        fetch_tree(first, manifest, tmp_path / "copy")
    store.write(missing, data)
    fetch_tree(second, manifest, tmp_path / "copy")
    assert sorted(first.moved + second.moved) == ["empty", "one.bin", "rows.jsonl", "twin.bin"]
    assert verify(tmp_path / "copy") == manifest
    leftovers = [path.name for path in tmp_path.iterdir() if path.name.startswith(".copy") and path.is_dir()]
    assert not leftovers


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\\b", ""])
def test_a_manifest_may_not_lead_out_of_its_folder(name):
    entry = {"size_bytes": 0, "sha256": "0" * 64}
    with pytest.raises(ValueError, match="not the name of a file in the folder"):
        Manifest.model_validate({"kind": "x", "files": {name: entry}})


def test_progress_is_in_megabytes_and_comes_to_the_total(store, tree):
    class Seen:
        total, done = 0, 0

        def start(self, title, total=None):
            assert title == "uploading tree (MB)"
            self.total = total

        def advance(self, units=1, note=""):
            self.done += units

        def log(self, line):
            raise AssertionError(line)

    seen = Seen()
    put_tree(store, tree, seen)
    assert seen.total == 1
    assert seen.done == seen.total


@pytest.fixture
def adapter(tmp_path):
    """A sealed folder with tensors and what describes them."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(bytes(4096))
    (folder / "summary.json").write_text("{}", encoding="utf-8")
    seal(folder, "test.adapter")
    return folder


def test_who_reads_only_texts_fetches_no_tensors(store, tree, adapter, tmp_path):
    counting = Counting(store)
    trees = {tmp_path / "a": put_tree(store, tree), tmp_path / "b": put_tree(store, adapter)}
    fetch_texts(counting, trees)
    assert sorted(counting.moved) == ["empty", "one.bin", "rows.jsonl", "summary.json", "twin.bin"]
    assert (tmp_path / "a" / "deep" / "twin.bin").read_bytes() == (tree / "one.bin").read_bytes()
    assert read_manifest(tmp_path / "b") == read_manifest(adapter), "its digest is that of the whole"


def test_texts_are_verified_and_missing_ones_named(store, adapter, tmp_path):
    manifest = put_tree(store, adapter)
    key = f"cas/{manifest.files['summary.json'].sha256}"
    store.write(key, b"[]")
    with pytest.raises(IntegrityError, match="cas"):
        fetch_texts(store, {tmp_path / "a": manifest})
    store.delete(key)
    with pytest.raises(IntegrityError, match="run the stage that made it again"):
        fetch_texts(store, {tmp_path / "b": manifest})
