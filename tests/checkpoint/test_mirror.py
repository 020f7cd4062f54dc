"""Unfinished work is copied to the store while a stage goes on, and another machine goes on from the newest copy."""

import threading

import pytest

from lorapar.checkpoint import Generations, Keeper, kept
from lorapar.config import CheckpointConfig
from lorapar.errors import IntegrityError, UnreachableError
from lorapar.progress import Silent
from lorapar.store import open_store
from lorapar.store.local import LocalStore

ALWAYS = CheckpointConfig(interval_seconds=0.0, keep=2)
NAME = "sft-0123"


class Lines(Silent):
    def __init__(self):
        self.lines = []

    def log(self, line):
        self.lines.append(line)


class Machine:
    """A machine of its own: its scratch folder, and the store that all machines share."""

    def __init__(self, root, name, store):
        self.scratch = root / name
        self.scratch.mkdir(exist_ok=True)
        self.store = store
        self.progress = Lines()

    def kept(self):
        return kept(self.store, NAME, self.scratch, ALWAYS, self.progress)

    def write(self, **files):
        for name, text in files.items():
            path = self.scratch / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def files(self):
        return {
            path.relative_to(self.scratch).as_posix(): path.read_text(encoding="utf-8")
            for path in self.scratch.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def machine(tmp_path, store):
    return lambda name, store=store: Machine(tmp_path, name, store)


def work(machine, *versions):
    """Keep a file in several versions, and be killed."""
    with machine.kept() as keeper:
        for version in versions:
            machine.write(state=version, deep__file=f"of {version}")
            keeper.keep()
            keeper.settle()


def test_another_machine_goes_on_from_the_newest_copy(machine):
    work(machine("one"), "first", "second", "third")
    two = machine("two")
    with two.kept():
        assert two.files() == {"state": "third", "deep/file": "of third"}
    (line,) = two.progress.lines
    assert line.startswith("going on from checkpoint 3 in ")


def test_without_a_store_nothing_but_the_interval_is_kept(tmp_path):
    with kept(None, NAME, tmp_path, CheckpointConfig(interval_seconds=1e6), Lines()) as keeper:
        assert type(keeper) is Keeper
        assert not keeper.due()
        keeper.tick()
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_due_when_the_interval_has_passed(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    keeper = Keeper(CheckpointConfig(interval_seconds=60.0))
    now = 159.9
    assert not keeper.due()
    now = 160.0
    assert keeper.due()
    keeper.keep()
    assert not keeper.due()


def test_only_so_many_copies_stay_and_no_file_that_none_of_them_has(machine, store):
    work(machine("one"), "first", "second", "third")
    generations = Generations(store, NAME)
    assert generations.numbers() == [3, 2]
    files = [entry.key for entry in store.list(f"checkpoints/{NAME}/files/")]
    named = {e.sha256 for number in (2, 3) for e in generations.read(number).files.values()}
    assert {key.rsplit("/", 1)[1] for key in files} == named


def test_what_has_not_changed_is_not_copied_again(machine, monkeypatch):
    one = machine("one")
    uploaded = []
    upload = LocalStore.upload_all

    def noted(self, transfers, moved=None):
        files = list(transfers)
        uploaded.extend(transfer.path.name for transfer in files)
        upload(self, files, moved)

    monkeypatch.setattr(LocalStore, "upload_all", noted)
    one.write(journal="votes")
    work(one, "first", "second")
    assert sorted(uploaded) == ["file", "file", "journal", "state", "state"]


@pytest.mark.parametrize("damage", ["tampered", "missing", "manifest"])
def test_a_damaged_copy_is_named_and_the_one_before_it_taken(machine, store, damage):
    work(machine("one"), "first", "second")
    entry = Generations(store, NAME).read(2).files["state"]
    key = f"checkpoints/{NAME}/files/{entry.sha256}"
    if damage == "tampered":
        store.write(key, b"sec0nd")
    elif damage == "missing":
        store.delete(key)
    else:
        store.write(f"checkpoints/{NAME}/00000002.json", b"{")
    two = machine("two")
    with two.kept():
        assert two.files() == {"state": "first", "deep/file": "of first"}
    unused, going_on = two.progress.lines
    assert unused.startswith("checkpoint 2 is not used: ")
    assert store.address in unused
    assert going_on.startswith("going on from checkpoint 1 in ")


def test_a_half_uploaded_copy_is_never_read(machine, store, monkeypatch):
    work(machine("one"), "first")
    upload = LocalStore.upload_all

    def torn(self, transfers, moved=None):
        upload(self, [transfer for transfer in transfers if transfer.path.name != "state"], moved)
        raise UnreachableError("the cable is out")

    one = machine("one")
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "upload_all", torn)
        work(one, "second")
    assert any("the cable is out; the work goes on" in line for line in one.progress.lines)
    two = machine("two")
    with two.kept():
        assert two.files()["state"] == "first"


def test_what_lies_here_is_taken_where_it_is_as_new(machine):
    one = machine("one")
    work(one, "first")
    one.write(state="later than the copy")
    with one.kept():
        assert one.files()["state"] == "later than the copy"
    assert one.progress.lines == []


def test_what_lies_here_is_given_up_for_a_newer_copy_of_another_machine(machine):
    one, two = machine("one"), machine("two")
    work(one, "first")
    work(two, "second")
    with one.kept():
        assert one.files()["state"] == "second"


def test_work_begun_without_a_store_is_not_thrown_away(machine):
    work(machine("one"), "first")
    two = machine("two")
    two.write(state="made without a store")
    with two.kept():
        assert two.files()["state"] == "made without a store"


def test_a_restore_that_was_killed_is_begun_again(machine):
    work(machine("one"), "first")
    two = machine("two")
    two.write(state="half of")
    (two.scratch / ".fetching").mkdir()
    with two.kept():
        assert two.files() == {"state": "first", "deep/file": "of first"}


def test_whatever_ends_the_stage_early_its_last_state_is_copied(machine):
    one = machine("one")

    def stopped():
        with one.kept():
            one.write(state="just before Ctrl-C")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    two = machine("two")
    with two.kept():
        assert two.files() == {"state": "just before Ctrl-C"}


def test_of_a_stage_that_was_stopped_before_it_began_nothing_is_copied(machine, store):
    with pytest.raises(KeyboardInterrupt), machine("first").kept():
        raise KeyboardInterrupt
    assert list(store.list("")) == []
    second = machine("second")
    with second.kept():
        assert second.progress.lines == [], "it does not say that it goes on"


def test_a_full_disk_does_not_hide_what_ended_the_stage(machine, monkeypatch):
    def full(self, *arguments, **options):
        raise OSError(28, "No space left on device")

    one = machine("one")

    def failing():
        with one.kept():
            one.write(state="half done")
            monkeypatch.setattr("pathlib.Path.mkdir", full)
            raise RuntimeError("what ended it")

    with pytest.raises(RuntimeError, match="what ended it"):
        failing()
    monkeypatch.undo()
    assert any("No space left" in line for line in one.progress.lines)


def test_after_success_nothing_is_left_in_the_store(machine, store):
    one = machine("one")
    with one.kept() as keeper:
        one.write(state="x")
        keeper.keep()
    keeper.forget()
    assert list(store.list("checkpoints/")) == []


def test_the_stage_goes_on_while_a_copy_is_under_way(machine, monkeypatch):
    go, uploading = threading.Event(), threading.Event()
    upload = LocalStore.upload_all

    def slow(self, transfers, moved=None):
        uploading.set()
        assert go.wait(20)
        upload(self, transfers, moved)

    monkeypatch.setattr(LocalStore, "upload_all", slow)
    one = machine("one")
    with one.kept() as keeper:
        one.write(journal="1\n")
        keeper.keep()
        assert uploading.wait(20)
        assert not keeper.due(), "the next waits until this one is there"
        with (one.scratch / "journal").open("a") as file:
            file.write("2\n")
        go.set()
    two = machine("two")
    with two.kept():
        assert two.files() == {"journal": "1\n"}, "as it was when the copy was begun"


def test_two_machines_with_the_same_work_do_not_overwrite_each_other(machine, store):
    one, two = Generations(store, NAME), Generations(store, NAME)
    folder = machine("one").scratch
    (folder / "state").write_text("x")
    from lorapar.store import seal

    manifest = seal(folder, "checkpoint")
    assert one.write(1, manifest, folder) == 1
    assert two.write(1, manifest, folder) == 2


def test_a_store_that_does_not_answer_is_an_error_before_the_work_begins(machine, monkeypatch):
    def dead(self, prefix=""):
        raise UnreachableError("nobody there")

    monkeypatch.setattr(LocalStore, "list", dead)
    with pytest.raises(UnreachableError), machine("one").kept():
        raise AssertionError("the stage must not start")


def test_names_that_lead_out_of_the_folder_are_refused(store, tmp_path):
    data = b'{"kind": "checkpoint", "files": {"../out": {"size_bytes": 0, "sha256": "%s"}}}' % (b"0" * 64)
    store.write(f"checkpoints/{NAME}/00000001.json", data)
    with pytest.raises(IntegrityError, match=r"00000001.json: not a manifest \(.*'../out'"):
        Generations(store, NAME).fetch(1, tmp_path / "scratch")


class Clock:
    """A clock that a test moves on; a request to the store sleeps by it."""

    def __init__(self):
        self.now = 0.0
        self.by_itself = False
        """Whether whoever sleeps moves it, because nobody else is there to do so."""
        self._changed = threading.Condition()
        self._asleep_until = None

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        with self._changed:
            until = self.now + seconds
            self._asleep_until = until
            self._changed.notify_all()
            while self.now < until:
                if self.by_itself:
                    self.now = until
                else:
                    self._changed.wait(0.01)
            self._asleep_until = None

    def advance(self, seconds):
        """Move on, once the copy under way, if there is one, waits for that."""
        with self._changed:
            self.now += seconds
            self._changed.notify_all()
            while self._at_work():
                self._changed.wait(0.01)

    def _at_work(self):
        waits = self._asleep_until is not None and self._asleep_until > self.now
        return not waits and any(thread.name == "checkpoint" for thread in threading.enumerate())


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr("time.monotonic", found.monotonic)
    return found


class SlowStore(LocalStore):
    """A store that takes its time over each request; files of one copy go up side by side."""

    def __init__(self, root, clock, seconds):
        super().__init__(root)
        self._wait = lambda: clock.sleep(seconds)

    def list(self, prefix=""):
        self._wait()
        return super().list(prefix)

    def read(self, key):
        self._wait()
        return super().read(key)

    def write_if_absent(self, key, data):
        self._wait()
        return super().write_if_absent(key, data)

    def upload_all(self, transfers, moved=None):
        self._wait()
        super().upload_all(transfers, moved)

    def delete_all(self, keys):
        self._wait()
        super().delete_all(keys)


def state_in(store):
    """The moment whose state a machine that starts now would go on from."""
    generations = Generations(store, NAME)
    numbers = generations.numbers()
    entry = generations.read(numbers[0]).files["state"] if numbers else None
    return float(store.read(f"checkpoints/{NAME}/files/{entry.sha256}")) if entry else 0.0


@pytest.fixture
def slow(tmp_path, clock, machine):
    """A machine whose store takes so long over a request, and keeps a copy every minute at most."""

    def made(seconds):
        found = machine("one", SlowStore(tmp_path / "store", clock, seconds))
        found.kept = lambda: kept(found.store, NAME, found.scratch, CheckpointConfig(), found.progress)
        return found

    return made


@pytest.mark.parametrize(("answer_seconds", "most_seconds"), [(0, 60), (1, 60), (5, 60), (20, 140)])
def test_whenever_a_machine_goes_at_most_one_interval_is_lost(slow, store, clock, answer_seconds, most_seconds):
    """A pod of Kubeflow has about a second once it is told to stop, so that what is in the store by then is all.

    Its launcher handles no signal (Kubeflow 2.17.0, backend/src/v2/cmd/launcher-v2/main.go), and with it goes the
    container (Argo 4.0.5, cmd/argoexec/commands/emissary.go). A copy takes two requests and is made room for by three
    more: at 20 s each it takes longer than half the minute, and then copies follow each other without a pause.
    """
    one, lost, copies = slow(answer_seconds), [], set()
    clock.by_itself = True
    with one.kept() as keeper:
        clock.by_itself = False
        begun = clock.now
        while clock.now < begun + 400:
            one.write(state=str(clock.now))
            keeper.tick()
            clock.advance(1)
            there = state_in(store)
            copies.add(there)
            lost.append(clock.now - max(there, begun))
        clock.by_itself = True
    assert max(lost) <= most_seconds + 1, "and the step under way"
    assert len(copies) >= 400 / most_seconds, "a copy was made again and again"


def stopped_at(machine, clock, seconds):
    """Work for so long, and be stopped; when that was."""
    clock.by_itself = True
    with machine.kept() as keeper:
        clock.by_itself = False
        stop = clock.now + seconds
        while clock.now < stop:
            machine.write(state=str(clock.now))
            keeper.tick()
            clock.advance(1)
        clock.by_itself = True
        raise KeyboardInterrupt(stop)


@pytest.mark.parametrize("moment", range(31, 150, 13))
def test_a_stop_waits_for_no_more_than_the_copy_under_way_and_makes_one_last(slow, store, clock, moment):
    """With 5 s a request that is within the 30 s that Kubernetes leaves other pods: old copies are left where they lie.

    Two requests of the copy under way or one of making room, then two of the last copy.
    """
    with pytest.raises(KeyboardInterrupt) as stopped:
        stopped_at(slow(5), clock, moment)
    (stop,) = stopped.value.args
    assert clock.now - stop <= 4 * 5
    assert state_in(store) == stop - 1
