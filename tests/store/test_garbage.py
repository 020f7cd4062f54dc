"""gc removes what nothing reaches, and only that: runs, records, adapters and what is young stay."""

import os

import pytest

from lorapar.errors import BadInputError
from lorapar.store import fetch_tree, open_store, put_tree, seal
from lorapar.store.garbage import find_garbage, remove_garbage

HOUR = 3600


def age(store, hours):
    """Make everything in the store that old."""
    for info in list(store.list()):
        old = info.modified - hours * HOUR
        os.utime(store.root / info.key, (old, old))


@pytest.fixture
def artifact(store, tmp_path):
    """Put a tree of one file into the store as tasks do; returns its manifest."""

    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "file").write_text(name)
        seal(folder, "test")
        manifest = put_tree(store, folder)
        store.write(f"manifests/{manifest.digest}.json", manifest.model_dump_json().encode())
        return manifest

    return make


def keys(garbage):
    return {info.key for info in garbage.left_over}


def content(manifest):
    return {f"manifests/{manifest.digest}.json", *(f"cas/{entry.sha256}" for entry in manifest.files.values())}


def test_what_a_run_names_stays_and_the_rest_goes(store, artifact, tmp_path):
    kept, lost = artifact("kept"), artifact("lost")
    store.write("runs/one/records/a.json", f'{{"outputs": {{"x": "{kept.digest}"}}}}'.encode())
    age(store, 48)
    found = find_garbage(store, 24 * HOUR)
    assert keys(found) == content(lost)
    assert found.reached == 2
    assert remove_garbage(store, found, 24 * HOUR) == 2
    assert not content(lost) & {info.key for info in store.list()}
    fetch_tree(store, kept, tmp_path / "copy")


@pytest.mark.parametrize(
    "root", ["records/r.json", "adapters/x/1/lineage.json", "checkpoints/sft-k/00000001.json", "notes"]
)
def test_everything_outside_the_content_is_a_root(store, artifact, root):
    kept = artifact("kept")
    store.write(root, f"sha256:{next(iter(kept.files.values())).sha256} and {kept.digest}".encode())
    age(store, 48)
    assert not keys(find_garbage(store, 24 * HOUR))


def test_another_address_may_hold_roots_too(store, artifact, tmp_path):
    kept = artifact("kept")
    age(store, 48)
    elsewhere = open_store(tmp_path / "pipeline-root")
    elsewhere.write("artifact", kept.digest.encode())
    assert keys(find_garbage(store, 24 * HOUR)) == content(kept)
    assert not keys(find_garbage(store, 24 * HOUR, [elsewhere]))


@pytest.mark.parametrize("made", [None, "empty", "of-something-else"])
def test_a_root_that_names_nothing_is_taken_for_misspelt(store, artifact, tmp_path, cli, made):
    here, needed_elsewhere = artifact("here"), artifact("elsewhere")
    store.write("runs/one/x.json", here.digest.encode())
    open_store(tmp_path / "right").write("artifact", needed_elsewhere.digest.encode())
    age(store, 48)
    if made is not None:
        (tmp_path / "wrong").mkdir()
    if made == "of-something-else":
        (tmp_path / "wrong" / "notes.txt").write_text("mine")
    before = {info.key for info in store.list()}
    result = cli("gc", store.root, "--root", tmp_path / "right", "--root", tmp_path / "wrong", "--delete")
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert result.stderr.startswith(f"lorapar: --root {tmp_path / 'wrong'}: there is nothing here that names content")
    assert {info.key for info in store.list()} == before


def test_what_is_young_stays(store, artifact):
    artifact("new")
    found = find_garbage(store, 24 * HOUR)
    assert not found.left_over
    assert found.young == 2


def test_what_was_taken_up_since_it_was_found_stays(store, artifact, tmp_path):
    kept, lost = artifact("kept"), artifact("lost")
    store.write("runs/one/x.json", kept.digest.encode())
    age(store, 48)
    found = find_garbage(store, 24 * HOUR)
    put_tree(store, tmp_path / "lost")  # a new run makes the same bytes again
    remove_garbage(store, found, 24 * HOUR)
    fetch_tree(store, lost, tmp_path / "copy")
    assert set(lost.files) <= {path.name for path in (tmp_path / "copy").iterdir()}


def test_the_wrong_address_is_not_emptied(store, artifact):
    artifact("all")
    age(store, 48)
    found = find_garbage(store, 24 * HOUR)
    with pytest.raises(BadInputError, match="looks like the wrong address"):
        remove_garbage(store, found, 24 * HOUR)
    assert store.known([info.key for info in found.left_over])


def test_scratch_files_of_killed_processes_go(store, artifact):
    kept = artifact("kept")
    store.write("runs/one/x.json", kept.digest.encode())
    left = store.root / "cas" / ".lorapar-0123"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    found = find_garbage(store, 24 * HOUR)
    assert found.unfinished == 1
    remove_garbage(store, found, 24 * HOUR)
    assert not left.exists()


def test_command_changes_nothing_until_asked_to(store, artifact, cli):
    kept, _ = artifact("kept"), artifact("lost")
    store.write("runs/one/x.json", kept.digest.encode())
    age(store, 48)
    before = {info.key for info in store.list()}
    looked = cli("gc", store.root)
    assert looked.returncode == 0, looked.stderr
    assert "2 are left over" in looked.stdout
    assert "nothing was changed" in looked.stdout
    assert {info.key for info in store.list()} == before
    done = cli("gc", store.root, "--delete")
    assert "removed 2" in done.stdout
    assert len({info.key for info in store.list()}) == len(before) - 2
