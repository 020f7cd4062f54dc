"""Folders laid out as data sets of the hub: a configuration and a split of them are read, as `load_dataset` would."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorapar.config import DataConfig
from lorapar.data import load_data, resolve_data
from lorapar.data.splits import choose
from lorapar.errors import BadInputError

CONFIGS = """---
license: mit
configs:
- config_name: main
  default: true
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: [main/test-*]}
- config_name: socratic
  data_dir: socratic
- {config_name: all, data_files: "**/*.parquet"}
- {config_name: listed, data_files: [main/test-00000-of-00001.parquet, socratic/dev.parquet]}
---
# A data set
"""
FILES = [
    "main/test-00000-of-00001.parquet",
    "main/train-00000-of-00002.parquet",
    "main/train-00001-of-00002.parquet",
    "socratic/dev.parquet",
    "socratic/train.parquet",
]


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist([{"question": f"{name}?", "answer": name}]), tmp_path / name)
    (tmp_path / "README.md").write_text(CONFIGS)
    (tmp_path / "dataset_infos.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("subset", "split"),
    [
        (None, "train"), ("main", "test"), (None, "train+test"), ("socratic", "train"), ("socratic", "validation"),
        ("socratic", "all"), ("all", "train"), ("listed", "train"),
    ],
)  # fmt: skip
def test_what_is_read_is_what_the_library_of_data_sets_reads(folder, monkeypatch, tmp_path_factory, subset, split):
    config = DataConfig(source=str(folder), subset=subset, split=split, heldout=0)
    found = [one.answer for one in load_data(config, seed=0).examples]
    cache = str(tmp_path_factory.mktemp("cache"))
    assert sorted(found) == sorted(datasets.load_dataset(str(folder), subset, split=split, cache_dir=cache)["answer"])


def test_the_choice_is_reported_and_is_part_of_the_digest(folder):
    train, test = (DataConfig(source=str(folder), split=split, heldout=0) for split in ("train", "test"))
    message = f"of the configuration 'main' in {folder} the split 'train' is read, and not test (data.split)"
    assert load_data(train, seed=0).notes[0] == message
    assert resolve_data(train).digest != resolve_data(test).digest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"subset": "mian"},
            r"data\.subset: .* has no configuration 'mian' \(did you mean 'main'\?\); it has: main, soc",
        ),
        ({"split": "dev"}, r"data\.split: .* has no split 'dev'; it has: train, test"),
        ({"revision": "main"}, r"data\.revision: does nothing for a local file"),
    ],
)
def test_what_is_not_there_is_one_line(folder, values, message):
    with pytest.raises(BadInputError, match=message):
        load_data(DataConfig(source=str(folder), **values), seed=0)


def test_several_configurations_without_a_default_want_a_name(folder):
    (folder / "README.md").write_text(CONFIGS.replace("  default: true\n", ""))
    with pytest.raises(BadInputError, match=r"data\.subset: .* has several configurations; name one: main, socratic"):
        load_data(DataConfig(source=str(folder)), seed=0)
    (folder / "README.md").write_text(CONFIGS.replace("main/train-*", "main/gone-*"))
    with pytest.raises(BadInputError, match=r"README\.md of .* names for the split 'train' are missing"):
        load_data(DataConfig(source=str(folder)), seed=0)


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["test.jsonl", "train.jsonl"], "train", ["train.jsonl"]),
        (["a/test/x.csv", "a/training/y.csv"], "test", ["a/test/x.csv"]),
        (["my_valid_rows.csv", "my_train_rows.csv"], "validation", ["my_valid_rows.csv"]),
        (["data/train_sft-00000-of-00001.parquet", "data/test_sft-00000-of-00001.parquet"], "train_sft",
         ["data/train_sft-00000-of-00001.parquet"]),
        (["test.jsonl", "train.jsonl"], "train+test", ["train.jsonl", "test.jsonl"]),
        # Where a name says no split, or all say one, the files are read as one.
        (["train.jsonl", "more.jsonl"], "train", ["train.jsonl", "more.jsonl"]),
        (["test/a.jsonl", "test/b.jsonl"], "train", ["test/a.jsonl", "test/b.jsonl"]),
        (["trainer.jsonl", "contest.jsonl"], "train", ["trainer.jsonl", "contest.jsonl"]),
    ],
)  # fmt: skip
def test_splits_are_recognised_by_names(names, split, expected):
    chosen = choose("rows", names, split, None, None)
    assert chosen.names == expected
    assert (chosen.note is None) == (len(chosen.names) == len(names) and split == "train")


@pytest.mark.parametrize("readme", [None, "# no head", "---\n: {\n---\n", "---\nconfigs: 3\n---\n", "---\n- a\n---\n"])
def test_a_readme_without_configurations_changes_nothing(readme):
    assert choose("rows", ["a.jsonl", "b.jsonl"], "train", None, readme).names == ["a.jsonl", "b.jsonl"]
    with pytest.raises(BadInputError, match=r"data\.split: nothing in rows is named by a split, such as train\.jsonl"):
        choose("rows", ["a.jsonl", "b.jsonl"], "test", None, readme)
