"""Imports that take seconds: without the garbage collector, and frozen where the process is the command's own."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from lorapar.imports import MODEL_LIBRARIES, import_at_once
from lorapar.stages.contract import TRAINING_PACKAGES


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that can be imported, and keeps objects for as long as it is."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


@pytest.fixture
def owned():
    """What the command does before it begins."""
    gc.freeze()


@pytest.fixture
def another_program():
    """Nothing is frozen, unlike in the tests' own processes."""
    gc.unfreeze()
    yield
    gc.freeze()


def test_no_garbage_is_looked_for_while_modules_are_imported(module, another_program):
    name = module("slow_module", "import gc\ncollecting = gc.isenabled()\nkept = [[] for _ in range(9000)]\n")
    before = gc.get_freeze_count()
    import_at_once(name)
    assert not sys.modules[name].collecting
    assert gc.isenabled()
    assert gc.get_freeze_count() == before == 0, "objects of the program that imports lorapar are left alone"


def test_the_command_keeps_what_it_has_imported_out_of_later_collections(module, owned):
    name = module("slow_module", "kept = [[] for _ in range(9000)]\n")
    import_at_once(name)
    import_at_once(name)
    kept = sys.modules[name].kept
    assert gc.isenabled()
    assert not any(one is kept for one in gc.get_objects()), "frozen objects are none that a collection looks at"


def test_garbage_from_before_is_not_kept_for_ever(module, owned):
    class Cycle:
        gone = False

        def __init__(self):
            self.itself = self

        def __del__(self):
            Cycle.gone = True

    gc.disable()
    Cycle()
    gc.enable()
    import_at_once(module("slow_module", ""))
    assert Cycle.gone


def test_a_module_that_is_missing_leaves_the_collector_on():
    with pytest.raises(ModuleNotFoundError):
        import_at_once("no_such_module_of_lorapar")
    assert gc.isenabled()


def test_the_libraries_of_a_model_are_of_packages_that_a_stage_may_miss():
    """So that an install without them is told what to install (`run_stage`)."""
    assert {name.partition(".")[0] for name in MODEL_LIBRARIES} <= set(TRAINING_PACKAGES)


_MODELS = """
import collections, gc, importlib.util, sys
from lorapar.imports import BASE_LIBRARIES, TRAINING_LIBRARIES, import_at_once
if sys.argv[1] == "command":
    gc.freeze()
read = collections.Counter()
def audit(event, args):
    if event == "os.scandir" and str(args[0]).endswith("/transformers/models/llama"):
        read["llama"] += 1
sys.addaudithook(audit)
import_at_once(*BASE_LIBRARIES)
print(read["llama"], *(name in sys.modules for name in ("scipy", "sklearn", "boto3")))
import_at_once(TRAINING_LIBRARIES[-1])
print("mlflow" in sys.modules)
import boto3, scipy.optimize, sklearn.metrics
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.integrations import is_mlflow_available
from transformers.utils import is_scipy_available
print(is_scipy_available(), is_mlflow_available())
"""


@pytest.mark.parametrize(
    ("whose", "first", "tracks"), [("command", "1 False False False", "False"), ("program", "2 True", "True")]
)
def test_a_process_of_the_command_imports_no_more_than_a_language_model_needs(whose, first, tracks):
    """What is held back meanwhile is there afterwards, for your own rewards and for models that bring their code.

    TRL (1.16.0) imports mlflow where transformers finds it; what tracks runs still finds it.

    transformers 5.23.0 reads its models twice: `create_import_structure_from_path` remembers 128 folders of 548. Where
    a later one does not, `program` fails here, and `_ReaderFinder` has no use any more.
    """
    ended = subprocess.run([sys.executable, "-c", _MODELS, whose], capture_output=True, text=True, check=False)
    at_first, mlflow, afterwards = ended.stdout.splitlines()
    assert at_first.startswith(first), ended.stderr
    assert mlflow == tracks
    assert afterwards == "True True"


def test_the_command_looks_for_no_garbage_when_it_ends(tmp_path):
    script = """
import atexit, gc
from lorapar.__main__ import main
atexit.register(lambda: print("frozen", len(gc.get_objects()) < 1000 < gc.get_freeze_count()))
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, "stage", "nothing"],
        capture_output=True,
        text=True,
        cwd=Path(tmp_path),
        check=False,
    )
    assert ended.stdout.splitlines()[-1:] == ["frozen True"], ended.stderr
