"""Runs with one store share what they have finished, whatever folder and machine they work on."""

import json
from threading import Thread
from time import sleep

import pytest

from lorapar.config import load_config
from lorapar.errors import UnreachableError
from lorapar.local.folder import RunFolder
from lorapar.local.runner import run_local
from lorapar.local.shared import SharedStages
from lorapar.stages.contract import is_cached
from lorapar.stages.graph import GRAPH
from lorapar.store import open_store
from lorapar.store.local import LocalStore
from tests.local.test_run import Spoken

CACHED = {node.name for node in GRAPH if is_cached(node.stage)}


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def tiny(store):
    return lambda *overrides: load_config(preset="tiny", overrides=[f"store.address={store.address}", *overrides])


def run(config, folder, **options):
    spoken = Spoken()
    run_local(config, folder, spoken, **options)
    return spoken


def taken(spoken):
    return {node for node, lines in spoken.lines.items() if any(line.startswith("taken from") for line in lines)}


def test_a_new_folder_takes_everything_from_the_store(tiny, tiny_copy, tmp_path):
    run(tiny(), tiny_copy)
    spoken = run(tiny(), tmp_path / "elsewhere")
    assert taken(spoken) == CACHED
    assert spoken.ran().isdisjoint(CACHED)
    for name in CACHED:
        assert RunFolder(tmp_path / "elsewhere").record(name).outputs == RunFolder(tiny_copy).record(name).outputs
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "elsewhere" / "adapter" / file).read_bytes() == (tiny_copy / "adapter" / file).read_bytes()


def test_a_fresh_run_makes_everything_again_and_others_take_what_it_made(tiny, store, tmp_path):
    run(tiny(), tmp_path / "one", until="prepare")
    (key,) = (entry.key for entry in store.list("finished/prepare-"))
    before = store.read(key)
    spoken = run(tiny(), tmp_path / "two", until="prepare", fresh=True)
    assert "prepare" in spoken.ran()
    assert store.read(key) != before, "the record has another time"
    assert taken(run(tiny(), tmp_path / "three", until="prepare")) == {"prepare"}
    assert RunFolder(tmp_path / "three").record("prepare") == RunFolder(tmp_path / "two").record("prepare")


def test_only_what_a_changed_setting_leaves_alone_is_taken(tiny, tiny_copy, tmp_path):
    run(tiny(), tiny_copy)
    spoken = run(tiny("partition.theta=0.5"), tmp_path / "elsewhere", until="partition")
    assert "score-system2" in taken(spoken)
    assert "partition" in spoken.ran()


@pytest.mark.parametrize("where", ["the same folder", "a new folder"])
def test_checkpoints_that_outlived_their_stage_are_removed(tiny, store, tiny_copy, tmp_path, where):
    """As after a kill between a stage's last write and the removal of its unfinished work."""
    run(tiny(), tiny_copy)
    folder = RunFolder(tiny_copy)
    record = folder.record("score-system1")
    folder.work(record).mkdir(parents=True)
    store.write(f"checkpoints/score-{record.key}/00000001.json", b"{}")
    store.write(f"checkpoints/score-{record.key}/files/abc", b"some scores")
    spoken = run(tiny(), tiny_copy if where == "the same folder" else tmp_path / "elsewhere", until="score-system1")
    assert "score-system1" not in spoken.ran()
    assert list(store.list("checkpoints/")) == []


@pytest.mark.parametrize("damage", ["tampered", "missing", "record"])
def test_what_is_damaged_in_the_store_is_named_made_again_and_put_there_again(tiny, store, tiny_copy, tmp_path, damage):
    run(tiny(), tiny_copy)
    (key,) = (entry.key for entry in store.list("finished/partition-"))
    sha256 = json.loads(store.read(key))["outputs"]["partition"]["files"]["partition.safetensors"]["sha256"]
    content, good = f"cas/{sha256}", store.read(f"cas/{sha256}")
    if damage == "tampered":
        store.write(content, good[:-1] + bytes([good[-1] ^ 1]))
    elif damage == "missing":
        store.delete(content)
    else:
        store.write(key, b"{}")
    spoken = run(tiny(), tmp_path / "two", until="partition")
    (line,) = (line for line in spoken.lines["partition"] if "not taken from the store" in line)
    assert (key if damage == "record" else content) in line
    assert "partition" in spoken.ran()
    assert store.read(content) == good
    assert "partition" in taken(run(tiny(), tmp_path / "three", until="partition"))


def test_a_store_that_fails_ends_the_run_with_its_own_code_and_loses_nothing(tiny, tiny_copy, tmp_path, monkeypatch):

    def dead(self, transfers, moved=None):
        raise UnreachableError(f"{self.address}: nobody there")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "upload_all", dead)
        with pytest.raises(UnreachableError, match="nobody there"):
            run(tiny(), tmp_path / "run", until="prepare")
    assert RunFolder(tmp_path / "run").record("prepare") is not None
    spoken = run(tiny(), tmp_path / "run", until="prepare")
    assert spoken.ran() == {"plan"}
    assert taken(run(tiny(), tmp_path / "elsewhere", until="prepare")) == {"prepare"}


def test_unfinished_work_goes_to_the_store_and_from_there_to_another_folder(
    tiny, store, tiny_copy, tmp_path, monkeypatch
):
    from lorapar.training.watch import Watch

    run(tiny(), tiny_copy, until="partition")
    config = tiny("checkpoint.interval_seconds=0", "sft.max_steps=4")
    whole = run(config, tmp_path / "whole", until="sft")
    assert list(store.list("checkpoints/")) == []
    digest = RunFolder(tmp_path / "whole").record("sft").outputs
    for entry in list(store.list("finished/sft-")):
        store.delete(entry.key)

    def killed(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_pre_optimizer_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(config, tmp_path / "one", until="sft")
    assert list(store.list("checkpoints/sft-"))
    spoken = run(config, tmp_path / "two", until="sft")
    # On a busy machine the last step's checkpoint may not have reached the store before the run was killed.
    assert {"going on after step 2", "going on after step 3"} & set(spoken.lines["sft"])
    assert RunFolder(tmp_path / "two").record("sft").outputs == digest
    assert list(store.list("checkpoints/")) == []
    assert whole.ran() >= {"sft"}
    assert len(list(store.list("timings/sft-"))) == 1, "of the whole run, not of the one that went on"


def test_a_stage_that_another_run_is_making_is_waited_for_and_taken(tiny, store, tiny_copy, tmp_path):
    run(tiny(), tiny_copy, until="prepare")
    record = RunFolder(tiny_copy).record("prepare")
    shared, spoken = SharedStages(store), Spoken()
    store.delete(f"finished/prepare-{record.key}.json")
    second = Thread(target=run_local, args=(tiny(), tmp_path / "two", spoken), kwargs={"until": "prepare"})
    with shared.alone(record, Spoken()):
        second.start()
        while not any("another run is making it" in line for line in spoken.lines.get("prepare", ())):
            assert second.is_alive()
            sleep(0.05)
        shared.keep(record, RunFolder(tiny_copy).node("prepare"))
    second.join()
    assert taken(spoken) == {"prepare"}
    assert not list(store.root.glob(".lorapar-making-*"))


def test_a_stage_whose_maker_failed_is_made_by_the_one_that_waited(tiny, store, tiny_copy, tmp_path):
    run(tiny(), tiny_copy, until="prepare")
    record = RunFolder(tiny_copy).record("prepare")
    with pytest.raises(RuntimeError), SharedStages(store).alone(record, Spoken()):
        raise RuntimeError("killed")
    store.delete(f"finished/prepare-{record.key}.json")
    assert "prepare" in run(tiny(), tmp_path / "two", until="prepare").ran()
