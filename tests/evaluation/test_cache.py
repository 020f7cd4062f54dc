"""Answers by content: found again by all they depend on and by nothing else; no trouble there ends an evaluation."""

from __future__ import annotations

import shutil
import sqlite3

import pytest

from lorapar import own_code
from lorapar.basemodel import load_model, load_tokenizer
from lorapar.config import EvaluateConfig, ModelConfig, PromptConfig
from lorapar.errors import StorageError, UnreachableError
from lorapar.evaluation import AnswerJournal, Asking, TransformersEngine, TransformersModel, answer_all, plan_batches
from lorapar.evaluation import cache as cache_module
from lorapar.evaluation.cache import AnswerCache, RememberedModel, model_identity
from lorapar.progress import Silent
from lorapar.records import Example
from lorapar.store import open_store
from lorapar.store.remembered import ContentCache
from tests.notes import Notes

BASE = ModelConfig(name="builtin:tiny", dtype="float32")
SETTINGS = EvaluateConfig(max_new_tokens=4, batch_size=2)
ROWS = [(Example(id=f"r{n}", question="Why? " * (n + 1), answer="so", reference="so"), "system1") for n in range(5)]


def identity(base=BASE, settings=SETTINGS, adapter=None, seed=0, **more) -> str:
    return model_identity(base, settings, adapter, seed, **{"stops": [2], **more})


@pytest.mark.parametrize(
    "change",
    [
        {"base": BASE.model_copy(update={"dtype": "bfloat16"})},
        {"base": BASE.model_copy(update={"autocast": "bfloat16"})},
        {"base": BASE.model_copy(update={"chat_template_kwargs": {"enable_thinking": False}})},
        {"settings": SETTINGS.model_copy(update={"max_new_tokens": 5})},
        {"settings": SETTINGS.model_copy(update={"backend": "vllm"})},
        {"stops": [2, 3]},
        {"seed": 1},
        {"device": "cuda"},
    ],
    ids=str,
)
def test_whatever_changes_an_answer_changes_the_identity(change) -> None:
    assert identity(**change) != identity()


def test_how_a_model_is_called_and_how_many_rows_are_asked_at_once_does_not_matter(tmp_path) -> None:
    assert identity(base=BASE.model_copy(update={"description": "other"})) == identity()
    wide = SETTINGS.model_copy(update={"batch_size": 9, "limit": 3, "confidence": 0.5})
    assert identity(settings=wide) == identity()


def test_changed_weights_and_another_adapter_are_another_model(tmp_path) -> None:
    folder = tmp_path / "model"
    model = load_model(BASE)
    model.save_pretrained(folder)
    load_tokenizer(BASE).save_pretrained(folder)
    local = ModelConfig(name=str(folder), dtype="float32")
    before = identity(base=local)
    model.get_input_embeddings().weight.data.mul_(0.5)
    model.save_pretrained(folder)
    assert identity(base=local) != before
    adapters = {"one": ("w", '{"alpha": 1}'), "other weights": ("v", '{"alpha": 1}'), "alpha": ("w", '{"alpha": 2}')}
    for name, (weights, described) in adapters.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(described)
        (tmp_path / name / "adapter_model.safetensors").write_text(weights)
    copied = shutil.copytree(tmp_path / "one", tmp_path / "copied")
    assert len({identity(), *(identity(adapter=tmp_path / name) for name in adapters)}) == 4
    assert identity(adapter=copied) == identity(adapter=tmp_path / "one")


@pytest.mark.parametrize(
    ("package", "settings"),
    [
        *((name, SETTINGS) for name in ("torch", "transformers", "tokenizers", "peft", "lm_eval")),
        ("vllm", SETTINGS.model_copy(update={"backend": "vllm"})),
    ],
)
def test_another_version_of_each_library_that_computes_is_another_model(package, settings, monkeypatch) -> None:
    installed = cache_module.version
    before = identity(settings=settings)
    monkeypatch.setattr(cache_module, "version", lambda name: "99.0" if name == package else installed(name))
    assert identity(settings=settings) != before


def test_the_library_that_quantised_a_model_is_part_of_it(monkeypatch) -> None:
    nf4 = BASE.model_copy(update={"quantization": "nf4"})
    before = identity(), identity(base=nf4)
    installed = cache_module.version
    newer = {"bitsandbytes": "99.0"}
    monkeypatch.setattr(cache_module, "version", lambda package: newer.get(package) or installed(package))
    assert identity() == before[0]
    assert identity(base=nf4) != before[1]


@pytest.fixture
def edited(monkeypatch):
    """Change the source of a module, as a new build would."""
    source = own_code._source

    def edit(module: str) -> None:
        assert source(module), module
        monkeypatch.setattr(own_code, "_source", lambda name: source(name) + "#" * (name == module))
        own_code.code_digest.cache_clear()

    yield edit
    own_code.code_digest.cache_clear()


ENGINE = ("evaluation.transformers_engine", "evaluation.generate", "basemodel.load", "basemodel.ended_rows")


@pytest.mark.parametrize("module", ENGINE)
def test_another_build_of_what_asks_is_asked_again(module, edited) -> None:
    before = identity()
    edited(f"lorapar.{module}")
    assert identity() != before


@pytest.mark.parametrize(
    "module", ["config.training", "store.s3", "evaluation.vllm_engine", "training.sft", "report.page"]
)
def test_another_build_of_anything_else_is_not(module, edited) -> None:
    before = identity()
    edited(f"lorapar.{module}")
    assert identity() == before


def test_the_code_of_each_engine_is_its_own(edited) -> None:
    vllm = SETTINGS.model_copy(update={"backend": "vllm"})
    before = identity(settings=vllm)
    edited("lorapar.evaluation.vllm_engine")
    changed = identity(settings=vllm)
    edited("lorapar.evaluation.transformers_engine")
    assert before == identity(settings=vllm) != changed


@pytest.fixture(scope="module")
def asking() -> Asking:
    return Asking(load_tokenizer(BASE), PromptConfig(system1="Be brief."), SETTINGS)


@pytest.fixture
def ask(asking, tmp_path, monkeypatch):
    """Ask the tiny model rows with a cache; returns the answers and how many rows it generated for."""
    generated: list[int] = []
    plain = TransformersModel.generate

    def counted(self, prompts, most, cache=None):
        generated.append(len(prompts))
        return plain(self, prompts, most, cache)

    monkeypatch.setattr(TransformersModel, "generate", counted)

    def one(rows, cache, *, autocast: bool = False):
        generated.clear()
        engine = TransformersEngine(load_model(BASE), asking.tokenizer, autocast=autocast)
        batches = plan_batches(rows, asking.tokenizer, asking.prompts, SETTINGS.batch_size)
        place = tmp_path / "journal.jsonl"
        place.unlink(missing_ok=True)
        journal = AnswerJournal(place)
        remembered = RememberedModel(cache, identity(autocast=autocast))
        answer_all({"base": None}, engine, batches, asking, journal, Silent(), lambda _: remembered)
        return {a.example_id: a for b in journal.of("base") for a in b.answers}, sum(generated)

    return one


def opened(tmp_path, store=None, progress=None) -> AnswerCache:
    return AnswerCache(tmp_path / "answers.sqlite", store, progress or Silent())


def test_a_row_is_asked_once_and_its_answer_is_the_same_to_the_last_bit(ask, tmp_path) -> None:
    with opened(tmp_path) as cache:
        first, asked = ask(ROWS[:4], cache)
    assert asked == 4
    with opened(tmp_path) as cache:
        again, asked = ask(ROWS, cache)
    assert asked == 1
    assert {name: again[name] for name in first} == first


def test_an_answer_is_judged_anew(ask, tmp_path) -> None:
    with opened(tmp_path) as cache:
        first, _ = ask(ROWS[:1], cache)
    example, system = ROWS[0]
    renamed = example.model_copy(update={"id": "other", "reference": first["r0"].text})
    with opened(tmp_path) as cache:
        again, asked = ask([(renamed, system)], cache)
    assert asked == 0
    assert (first["r0"].strict, again["other"].strict) == (False, True)


def test_a_corrected_right_answer_has_a_loss_of_its_own(ask, tmp_path) -> None:
    """The prompt is the same, and the text that is kept would be, too."""
    example, system = ROWS[0]
    with opened(tmp_path) as cache:
        first, _ = ask(ROWS[:1], cache)
        again, asked = ask([(example.model_copy(update={"answer": "not so"}), system)], cache)
    assert asked == 1
    assert again["r0"].text == first["r0"].text
    assert again["r0"].loss != first["r0"].loss


def test_in_a_narrow_format_rows_are_known_with_the_batch_they_were_computed_in(ask, tmp_path) -> None:
    with opened(tmp_path) as cache:
        first, asked = ask(ROWS[:4], cache, autocast=True)
        assert asked == 4
        assert ask(ROWS[:4], cache, autocast=True) == (first, 0)
        # The longest goes first, so that every batch has other rows.
        assert ask(ROWS, cache, autocast=True)[1] == 5
        assert ask(ROWS[:4], cache)[1] == 4


def test_a_damaged_entry_is_asked_again(ask, tmp_path) -> None:
    with opened(tmp_path) as cache:
        first, _ = ask(ROWS, cache)
    with sqlite3.connect(tmp_path / "answers.sqlite") as file:
        ((key, entry),) = file.execute("SELECT key, entry FROM answers LIMIT 1").fetchall()
        file.execute("UPDATE answers SET entry = ? WHERE key = ?", (entry.replace('"loss": ', '"loss": 1'), key))
    with opened(tmp_path) as cache:
        again, asked = ask(ROWS, cache)
        assert (ask(ROWS, cache), asked) == ((again, 0), 1)
    # Asked alone, a row's loss may be rounded otherwise than beside others.
    assert {name: one.text for name, one in again.items()} == {name: one.text for name, one in first.items()}
    assert [again[name].loss for name in first] == pytest.approx([one.loss for one in first.values()], rel=1e-5)


def test_an_answer_whose_bytes_are_no_text_is_asked_again_alone(ask, tmp_path) -> None:
    with opened(tmp_path) as cache:
        ask(ROWS, cache)
    with sqlite3.connect(tmp_path / "answers.sqlite") as file:
        ((key,),) = file.execute("SELECT key FROM answers LIMIT 1").fetchall()
        file.execute("UPDATE answers SET entry = cast(x'ff41' as text) WHERE key = ?", (key,))
    notes = Notes()
    for expected in (1, 0):
        with opened(tmp_path, progress=notes) as cache:
            assert ask(ROWS, cache)[1] == expected
    assert notes.lines == []


def test_a_damaged_file_is_begun_anew(ask, tmp_path) -> None:
    (tmp_path / "answers.sqlite").write_bytes(b"no database at all, but long enough to look at" * 9)
    notes = Notes()
    with opened(tmp_path, progress=notes) as cache:
        first, asked = ask(ROWS[:2], cache)
        assert (asked, ask(ROWS[:2], cache)) == (2, (first, 0))
    assert [line.rpartition("answers.sqlite ")[2] for line in notes.lines] == [
        "was damaged and is started again; what it held is asked again"
    ]


def test_a_full_disk_ends_no_evaluation(ask, tmp_path, monkeypatch) -> None:
    def full(*_):
        raise StorageError("no space left on device")

    notes = Notes()
    monkeypatch.setattr(ContentCache, "keep", full)
    with opened(tmp_path, progress=notes) as cache:
        assert len(ask(ROWS, cache)[0]) == 5
    assert notes.lines == ["answers are not remembered in this call: no space left on device"]


def remembered(path, store, progress, kept: str) -> list[str | None]:
    """Which of three answers are known at `path`, after which `kept` is kept there."""
    with AnswerCache(path / "answers.sqlite", store, progress) as cache:
        model = RememberedModel(cache, "i" * 64)
        known = model.recall(["one", "two", "three"])
        model.keep(kept, {"text": kept * 9000})
        assert model.recall([kept]) == [{"text": kept * 9000}]
    return [one and one["text"][: len(one["text"]) // 9000] for one in known]


@pytest.mark.parametrize("pages", [1, 3], ids=["no room for the file", "no room for another answer"])
def test_with_a_full_disk_answers_still_come_from_the_store_and_reach_it(tmp_path, monkeypatch, pages) -> None:
    store, real, notes = open_store(tmp_path / "store"), sqlite3.connect, Notes()
    assert remembered(tmp_path / "one", store, Silent(), "one") == [None, None, None]

    def connect(path, **more):
        file = real(path, **more)
        if path != ":memory:":
            file.execute(f"PRAGMA max_page_count = {pages}")
        return file

    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", connect)
        assert remembered(tmp_path / "two", store, notes, "two") == ["one", None, None]
    (line,) = notes.lines
    assert line.startswith("answers are remembered in the store alone in this call: ")
    assert f"{tmp_path / 'two' / 'answers.sqlite'}: " in line
    assert "disk is full" in line
    assert remembered(tmp_path / "three", store, Silent(), "three") == ["one", "two", None]


def test_without_a_store_a_full_disk_is_named_and_ends_nothing(ask, tmp_path, monkeypatch) -> None:
    real, notes = sqlite3.connect, Notes()

    def connect(path, **more):
        file = real(path, **more)
        file.execute("PRAGMA max_page_count = 1")
        return file

    monkeypatch.setattr(sqlite3, "connect", connect)
    with opened(tmp_path, progress=notes) as cache:
        assert ask(ROWS[:2], cache)[1] == 2
    (line,) = notes.lines
    assert line.startswith(f"answers are not remembered in this call: {tmp_path / 'answers.sqlite'}: ")


def test_what_is_not_sent_yet_outlives_a_file_that_was_damaged(tmp_path) -> None:
    store, notes = open_store(tmp_path / "store"), Notes()
    with AnswerCache(tmp_path / "answers.sqlite", store, notes) as cache:
        model = RememberedModel(cache, "i" * 64)
        model.keep("one", {"text": "one"})
        cache._texts._write()
        for path in tmp_path.glob("answers.sqlite*"):
            path.write_bytes(b"no database at all, but long enough to look at" * 999)
        assert model.recall(["one", "two"]) == [{"text": "one"}, None]
    assert len(notes.lines) == 1
    with AnswerCache(tmp_path / "other.sqlite", store, notes) as cache:
        assert RememberedModel(cache, "i" * 64).recall(["one"]) == [{"text": "one"}]


def test_answers_are_shared_through_a_store_and_a_lost_one_ends_no_evaluation(ask, tmp_path, monkeypatch) -> None:
    store = open_store(tmp_path / "store")
    with opened(tmp_path / "one", store) as cache:
        first, _ = ask(ROWS[:3], cache)
    with opened(tmp_path / "two", store) as cache:
        assert ask(ROWS[:3], cache) == (first, 0)

    def lost(*_):
        raise UnreachableError("the store does not answer")

    notes = Notes()
    monkeypatch.setattr(type(store), "list", lost)
    monkeypatch.setattr(type(store), "write_if_absent", lost)
    with opened(tmp_path / "three", store, notes) as cache:
        assert ask(ROWS[:3], cache) == (first, 3)
        assert ask(ROWS[:3], cache) == (first, 0)
    assert notes.lines == ["answers are not shared through the store in this call: the store does not answer"]
