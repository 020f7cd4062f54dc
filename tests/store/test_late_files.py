"""Files that another machine has written show up a little later on NFS and its like."""

import os
import time
from pathlib import Path

import pytest

from lorapar.store import NotFoundError, late_files, open_store
from lorapar.store.base import Transfer
from lorapar.store.late_files import is_shared

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/runs rw,relatime shared:9 - nfs4 nas:/export rw,vers=4.2
31 22 0:41 / /mnt/two\\040words rw - fuse.juicefs JuiceFS:x rw
32 30 8:2 / /mnt/runs/local rw - xfs /dev/sdb rw
33 22 0:42 / /mnt/covered rw - cifs //nas/x rw
34 22 8:3 / /mnt/covered rw - ext4 /dev/sdc rw
35 22 8:4 / /mnt/ntfs rw - fuseblk /dev/sdd1 rw
broken line
"""


@pytest.mark.parametrize(
    ("folder", "shared"),
    [
        ("/home/me", False),
        ("/mnt/runs", True),
        ("/mnt/runs/a/b", True),
        ("/mnt/runs2", False),
        ("/mnt/runs/local/a", False),
        ("/mnt/two words/a", True),
        ("/mnt/covered/a", False),
        ("/mnt/ntfs/a", False),
    ],
)
def test_the_deepest_and_last_mount_says_whether_others_write_there(tmp_path, monkeypatch, folder, shared):
    (tmp_path / "mounts").write_text(MOUNTS)
    monkeypatch.setattr(late_files, "_MOUNTS", tmp_path / "mounts")
    assert is_shared(Path(folder)) is shared


def test_where_nothing_tells_of_mounts_no_folder_is_shared(monkeypatch, tmp_path):
    monkeypatch.setattr(late_files, "_MOUNTS", tmp_path / "none")
    assert not is_shared(tmp_path)


@pytest.fixture
def late(tmp_path, monkeypatch):
    """A store in a shared folder, and how often its folder was opened; a file shows up after some looks."""
    monkeypatch.setattr(late_files, "is_shared", lambda folder: True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    looks, real = [], os.scandir

    def after(number):
        def scandir(path="."):
            if Path(path) == tmp_path:
                looks.append(path)
                if len(looks) == number:
                    (tmp_path / "key").write_bytes(b"made elsewhere")
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        return open_store(tmp_path), looks

    return after


def test_a_record_is_looked_for_once_more(late):
    store, looks = late(1)
    assert store.read("key") == b"made elsewhere"
    assert len(looks) == 1


def test_what_a_manifest_names_is_waited_for(late, tmp_path_factory):
    store, _ = late(3)
    target = tmp_path_factory.mktemp("here") / "file"
    store.download_all([Transfer(target, "key", 14)])
    assert target.read_bytes() == b"made elsewhere"


def test_what_stays_away_is_missing(late, tmp_path):
    store, looks = late(99)
    with pytest.raises(NotFoundError, match="there is no such object"):
        store.download_all([Transfer(tmp_path / "here", "key", 14)])
    assert len(looks) == 1 + len(late_files.PAUSES_SECONDS)


def test_a_folder_of_this_machine_alone_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(late_files, "is_shared", lambda folder: False)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(NotFoundError):
        open_store(tmp_path).read("key")
