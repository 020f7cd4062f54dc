"""The house rules a reader can rely on, checked in every file: who may import whom, sizes, and what never occurs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorapar.stages.contract import TRAINING_PACKAGES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lorapar"

# docs/architecture.md draws the same floors. A room imports from its own floor or a lower one, never in a circle.
FLOORS = {
    1: (
        "addresses",
        "errors",
        "records",
        "config",
        "presets",
        "redaction",
        "extras",
        "network",
        "store",
        "checkpoint",
        "stopping",
        "progress",
        "tracking",
        "held_back",
        "imports",
        "ranks",
        "places",
        "own_code",
    ),
    2: (
        "adapter",
        "capture",
        "voting",
        "data",
        "basemodel",
        "prompts",
        "answers",
        "comparing",
        "quantities",
        "reading",
        "plain_text",
    ),
    3: ("training", "evaluation", "registry", "report"),
    4: ("serving",),
    5: ("stages",),
    6: ("local", "study", "kubeflow", "ui"),
    7: ("__main__", "api", "cli", "doctor", "terminal"),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60

SOURCES = sorted(PACKAGE.rglob("*.py"))
IN_KUBEFLOWS_WORDS = sorted(path for folder in ("components", "pipelines") for path in (ROOT / folder).rglob("*.py"))
ALL_SOURCES = SOURCES + sorted((ROOT / "tests").rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    """`lorapar.adapter.names` is in `adapter`; the package itself, which holds only the version, is in no room."""
    parts = module.split(".")
    return parts[1] if parts[0] == "lorapar" and len(parts) > 1 else None


def imports_of(path: Path) -> Iterator[str]:
    """Every module a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import in full, as `from lorapar.x import y`"
            module = node.module or ""
            yield from (f"lorapar.{alias.name}" for alias in node.names) if module == "lorapar" else (module,)


def room_imports() -> set[tuple[str, str, str]]:
    """(file, importing room, imported room) for all imports from one room to another."""
    found = set()
    for path in SOURCES:
        room = room_of(module_name(path))
        for module in imports_of(path):
            other = room_of(module)
            if room and other and other in FLOOR_OF and other != room:
                found.add((str(path.relative_to(ROOT)), room, other))
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module_name(path)) for path in SOURCES} - {None}
    homeless = sorted(str(room) for room in rooms - set(FLOOR_OF))
    assert not homeless, f"give {homeless} a floor here and in docs/architecture.md"


def test_the_drawing_in_the_docs_shows_the_same_floors() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = {
        int(floor): set(re.findall(r"`(\w+)`", rooms))
        for floor, rooms in re.findall(r"^\| (\d) \| (.+?) \|", text, re.M)
    }
    assert drawn == {floor: set(rooms) for floor, rooms in FLOORS.items()}


def test_rooms_import_only_downwards() -> None:
    upwards = sorted(
        f"{path} imports {other} (floor {FLOOR_OF[other]}) from floor {FLOOR_OF[room]}"
        for path, room, other in room_imports()
        if FLOOR_OF[other] > FLOOR_OF[room]
    )
    assert not upwards, "\n".join(upwards)


def test_rooms_of_one_floor_do_not_import_in_a_circle() -> None:
    below: dict[str, set[str]] = {room: set() for room in FLOOR_OF}
    for _, room, other in room_imports():
        below[room].add(other)
    finished: set[str] = set()
    while ready := {room for room in set(below) - finished if below[room] <= finished}:
        finished |= ready
    assert finished == set(below), f"these rooms import each other in a circle: {sorted(set(below) - finished)}"


def test_files_and_functions_stay_short() -> None:
    long = []
    for path in (*SOURCES, *IN_KUBEFLOWS_WORDS):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MAX_FILE_LINES:
            long.append(f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines")
    assert not long, "\n".join(long)


def test_docstrings_explain_arguments_that_are_there() -> None:
    wrong = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "Args:" in text else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                taken = {one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg)}
                listed = re.search(r"^Args:\n((?: .*\n?)+)", ast.get_docstring(node) or "", re.M)
                named = re.findall(r"^ {4}(\w+):", listed[1], re.M) if listed else []
                wrong += [f"{path.relative_to(ROOT)}: {node.name}: {name}" for name in named if name not in taken]
    assert not wrong, "\n".join(wrong)


# Written in two halves so that this file does not find itself.
FORBIDDEN = {
    r"^\s*(import|from) (pickle|dill|cloudpickle|joblib)\b": "pickles run code when read; use safetensors or JSON",
    r"torch\.load\(": "torch.load reads pickles; use safetensors",
    r"trust_remote_code\s*=\s*" + "True": "only the setting may switch that on",
    r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b": "finish it, or say in an issue what is missing",
}


@pytest.mark.parametrize(("pattern", "why"), FORBIDDEN.items())
def test_never_occurs(pattern: str, why: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in ALL_SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line) and path != Path(__file__)
    ]
    assert not found, f"{why}:\n" + "\n".join(found)


# The client image has no torch: these rooms must be importable there, and stages must show their SPEC there.
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "gguf",
    "pandas",
    "pyarrow",
    "tokenizers",
    "kfp",
}
LIGHT_ROOMS = (
    "errors",
    "records",
    "config",
    "redaction",
    "extras",
    "store",
    "progress",
    "answers",
    "quantities",
    "plain_text",
    "capture",
    "stages",
    "serving",
    "local",
    "study",
    "api",
    "cli",
    "doctor",
)


def imports_at_top(path: Path) -> Iterator[str]:
    """Modules imported when the file is imported; those under `if TYPE_CHECKING:` and in functions are not."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_rooms_of_the_client_do_not_import_torch_at_the_top() -> None:
    heavy = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in SOURCES
        if room_of(module_name(path)) in LIGHT_ROOMS
        for module in imports_at_top(path)
        if module.split(".")[0] in HEAVY
    ]
    assert not heavy, "import these inside the function that needs them:\n" + "\n".join(heavy)


# Where a person or a pod waits for seconds only, what is imported first is most of the time.
SETTINGS_PACKAGES = {"pydantic", "typer", "typing_extensions", "yaml"}
COSTLY = {
    *("boto3", "botocore", "httpx2", "huggingface_hub", "jinja2", "kfp", "numpy", "requests", "rich", "scipy"),
    *("peft", "torch", "transformers"),
}
NOT_IN_A_POD = {
    *("lorapar.local.runner", "lorapar.local.preview", "lorapar.stages.plan", "lorapar.report.page"),
    "lorapar.basemodel",
}
A_TASK = """
import json, sys
import lorapar.cli.run, lorapar.kubeflow.executor, lorapar.registry
from lorapar.ranks import Ranks
from lorapar.stages.contract import stage_module
Ranks.here()  # asked before libraries of models are imported in one go
for name in sys.argv[1:]:
    stage_module(name)
print(json.dumps(sorted(name for name, found in sys.modules.items() if found is not None)))
"""
A_PAGE = """
import json, sys
import lorapar.report.page
from lorapar.report.sources import Facts, overlap_of
overlap_of(Facts())
print(json.dumps(sorted(name for name, found in sys.modules.items() if found is not None)))
"""
A_COMMAND = """
import json, sys
from lorapar.__main__ import main
try:
    main()
finally:
    print()
    print(json.dumps(sorted(name for name, found in sys.modules.items() if found is not None)))
"""


def imported_by(script: str, *arguments: str) -> set[str]:
    """The modules that a fresh process has imported when it ends."""
    ended = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    return set(json.loads(ended.stdout.splitlines()[-1]))


def packages(modules: set[str]) -> set[str]:
    """The packages among them that this one names, or that take long to import."""
    return {name.split(".")[0] for name in modules} & (declared(*EXTRAS) | COSTLY)


def test_a_task_that_works_for_seconds_imports_little_before_it_works() -> None:
    modules = imported_by(A_TASK, "tally", "promote", "report", "partition", "publish")
    assert packages(modules) <= SETTINGS_PACKAGES
    assert not modules & (NOT_IN_A_POD | {"lorapar.evaluation"})
    assert packages(imported_by(A_TASK, "gate")) <= SETTINGS_PACKAGES


def test_a_page_is_made_without_what_reads_rows_or_loads_models() -> None:
    modules = imported_by(A_PAGE)
    assert packages(modules) <= SETTINGS_PACKAGES | {"jinja2", "markupsafe"}
    assert not modules & {"ctypes", "lorapar.data.load", "lorapar.answers"}


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_a_wrong_setting_is_refused_before_anything_else_is_imported(command: str) -> None:
    modules = imported_by(A_COMMAND, command, "--preset", "tiny", "--set", "rl.wrong=1")
    assert "pydantic" in packages(modules) <= SETTINGS_PACKAGES
    assert not modules & {"lorapar.store", "lorapar.records", "lorapar.cli.ask"}


def test_the_help_of_the_command_imports_no_settings() -> None:
    modules = imported_by(A_COMMAND, "--help")
    assert packages(modules) == {"rich", "typer"}
    assert "lorapar.config" not in modules


MODULE_OF = {
    "pyyaml": "yaml",
    "prometheus-client": "prometheus_client",
    "lm-eval": "lm_eval",
    "math-verify": "math_verify",
    "huggingface-hub": "huggingface_hub",
    "typing-extensions": "typing_extensions",
    "mlflow-skinny": "mlflow",
    "kubeflow-trainer-api": "kubeflow_trainer_api",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = tuple(PROJECT["optional-dependencies"])
# Part of a package that is declared, or something that is there wherever the module importing it runs.
COMES_WITH = {
    "botocore": "boto3",
    "kfp_server_api": "kfp",
    "urllib3": "kfp",
    "s3transfer": "boto3",
    "latex2sympy2_extended": "math-verify",
    "sympy": "math-verify",
    "pydantic_core": "pydantic",
    "vllm": "the server that lorapar.serving runs in",
    "wandb": "whoever has an account there: it is in no extra",
}
# Asked for without an import: transformers' Trainer does not work without accelerate, nor torch.utils.tensorboard
# without TensorBoard.
NEEDED_BY_OTHERS = {"accelerate", "tensorboard"}


def declared(*extras: str) -> set[str]:
    """Modules of the packages that pyproject.toml asks for, in its core and in the extras named."""
    project = PROJECT
    asked = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    names = {re.split(r"[<>=!~\[; ]", line)[0].lower() for line in asked}
    return {MODULE_OF.get(name, name) for name in names}


def test_every_imported_package_is_declared() -> None:
    known = declared(*EXTRAS) | set(sys.stdlib_module_names) | {"lorapar"} | set(COMES_WITH)
    undeclared = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in SOURCES
        for module in imports_of(path)
        if module.split(".")[0] not in known
    }
    assert not undeclared, "name these in pyproject.toml:\n" + "\n".join(sorted(undeclared))


def test_every_declared_package_is_imported() -> None:
    imported = {module.split(".")[0] for path in SOURCES for module in imports_of(path)} | NEEDED_BY_OTHERS
    assert declared(*EXTRAS) <= imported, "pyproject.toml asks for packages that nothing imports"


def test_the_contract_knows_the_packages_of_the_train_extra() -> None:
    assert {MODULE_OF.get(name, name) for name in TRAINING_PACKAGES} == declared("train") - declared()
