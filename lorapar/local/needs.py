"""What later stages of a run need on this machine, checked before training: its registry, its keys, and packages.

`lorapar plan` and `lorapar run` ask. The stage `plan` does not: in a cluster it runs in an image that has none of the
packages, while the images of the stages that need them have.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from lorapar.basemodel.quantized import PACKAGE as QUANTIZER
from lorapar.basemodel.quantized import is_installed as quantizer_is_installed
from lorapar.basemodel.quantized import is_quantized, quantized_by, what_to_do
from lorapar.basemodel.shape import config_values, context_length
from lorapar.config import EndpointOptions, ModelConfig, RunConfig
from lorapar.data import load_examples
from lorapar.data.source import is_far
from lorapar.errors import BadInputError, StorageError
from lorapar.extras import pip_install
from lorapar.registry.signature import check_keys
from lorapar.stages.graph import GRAPH, Node
from lorapar.store import is_s3, make_writable_folder, open_store, parse_address

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lorapar.adapter import Targets


def ask_registry(config: RunConfig) -> None:
    """Ask a registry in S3 for what it holds, so that a wrong address is known at once.

    Raises BadInputError or UnreachableError. Folders are not touched.
    """
    address = config.registry.address
    if address is not None and is_s3(address):
        next(iter(open_store(address).list("adapters/")), None)


def ask_storage(config: RunConfig) -> None:
    """As `check_storage`, for a plan: folders are looked at and not made, not even one that is missing.

    Raises StorageError for one that could not be made or written.
    """
    for setting, address in (("registry.address", config.registry.address), ("store.address", config.store.address)):
        if address is not None and isinstance(folder := parse_address(address), Path):
            _check_could_be_written(folder, setting)
    ask_registry(config)
    check_keys()


def _check_could_be_written(folder: Path, setting: str) -> None:
    existing = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not existing.is_dir():
        raise StorageError(f"{setting}: {existing} is a file, not a folder; choose another place")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StorageError(
            f"{setting}: {existing} cannot be written ({os.strerror(errno.EACCES)}); choose another place"
        )


def check_storage(config: RunConfig) -> None:
    """Make the folders of registry and store, where they are folders, ask a registry in S3, and read signing keys.

    Raises StorageError for a folder that cannot be made or written, and as `ask_registry` and `check_keys`.
    """
    for address in (config.registry.address, config.store.address):
        if address is not None and isinstance(folder := parse_address(address), Path):
            make_writable_folder(folder)
    ask_registry(config)
    check_keys()


def require_packages(nodes: Iterable[Node], config: RunConfig) -> None:
    """Raise BadInputError where a node that is about to run needs a package that is not installed here.

    An install without torch runs no stage that needs any of them, and is not asked: it plans what runs elsewhere.
    """
    if find_spec("torch") is None:
        return
    for node in nodes:
        for what, package, remedy in _needs(node, config):
            if not (quantizer_is_installed() if package == QUANTIZER else find_spec(package)):
                raise BadInputError(f"{what} needs {package}, which is not installed here; {remedy}")


def adapter_targets(nodes: Iterable[Node], config: RunConfig) -> Targets | None:
    """Where the adapter will sit in the model, from its config.json, where one is about to be made here.

    Raises BadInputError for a layout that the model lacks, IntegrityError for an earlier adapter that does not fit it,
    before votes are paid for. None where no adapter is made,
    torch is not installed, or config.json alone cannot say.
    """
    if find_spec("torch") is None or not any(node.stage == "init" for node in nodes):
        return None
    from lorapar.adapter import find_targets
    from lorapar.basemodel import load_skeleton

    skeleton = load_skeleton(config.model)
    if skeleton is None:
        return None
    _require_earlier_fits(config.model, skeleton)
    if config.adapter.kind in ("prompt", "prefix"):
        return None
    return find_targets(skeleton, "KVD" if config.adapter.kind == "ia3" else config.adapter.layout)


_fitting: set[tuple[str | None, str | None]] = set()


def _require_earlier_fits(model: ModelConfig, skeleton: PreTrainedModel) -> None:
    """Raise IntegrityError where the matrices of the adapter to go on from are not of this model's sizes.

    Each adapter is fetched and looked at once a process.
    """
    key = (model.adapter_source.digest if model.adapter_source else None, model.digest)
    if model.adapter is None or key[0] is None or key in _fitting:
        return
    from lorapar.adapter import read_earlier
    from lorapar.registry.start import fetch_start

    with TemporaryDirectory() as scratch:
        folder = fetch_start(model, Path(scratch) / "start")
        read_earlier(folder, model.adapter_text).require_fit(skeleton)
    _fitting.add(key)


def check_context(config: RunConfig) -> None:
    """Raise BadInputError where a stage would read more tokens at once than the model has positions for."""
    positions = context_length(config.model)
    asked = {
        "score.max_length": config.score.max_length,
        "sft.max_length": max(one.max_length for one in config.sft_sections()),
        "rl.max_prompt_length + rl.max_completion_length": max(
            one.max_prompt_length + one.max_completion_length for one in config.rl_sections()
        ),
    }
    for key, tokens in asked.items():
        if positions is not None and tokens > positions:
            raise BadInputError(
                f"{key} is {tokens} tokens, and {config.model.name} reads at most {positions} at once "
                "(its config.json); lower it"
            )


def require_sandbox(nodes: Iterable[Node], config: RunConfig) -> None:
    """Raise BadInputError where generated code would have to run and this machine cannot confine it as set.

    Asked with the packages, of machines that run stages themselves.
    """
    stages = {node.stage for node in nodes}
    tests = "passes_tests" in config.rl.rewards and "rl" in stages & config.methods
    if tests:
        _require_tests(config)
    code = any(one.task == "humaneval" and one.built_in for one in config.evaluate.benchmarks)
    generates = code and "execute" in stages
    if (tests or generates) and find_spec("torch") is not None:
        _try_sandbox(config.execute.sandbox)


def _require_tests(config: RunConfig) -> None:
    """Rows that are here are read for it; a hub's are not fetched."""
    if is_far(config.data):
        return
    try:
        examples = load_examples(config.data, config.seed)
    except ModuleNotFoundError:  # of an install without pyarrow
        return
    if not any(example.tests for example in examples):
        raise BadInputError(
            "rl.rewards: passes_tests judges nothing, because no row has tests; name their column in data.columns.tests"
        )


_TRIED_ROWS = 32
"""Rows whose own answers are run against their tests."""


def own_answers(nodes: Iterable[Node], config: RunConfig) -> str | None:
    """What a person should know of rows whose own answers fail their tests; None where none of the first ones does.

    Asked after `require_sandbox`, in which the answers run.
    """
    asked = "passes_tests" in config.rl.rewards and "rl" in {node.stage for node in nodes} & config.methods
    if not asked or find_spec("torch") is None or is_far(config.data):
        return None
    from lorapar.training.passes_tests import failing_themselves, sandbox_pool

    try:
        examples = load_examples(config.data, config.seed)
    except ModuleNotFoundError:  # of an install without pyarrow
        return None
    rows = [example for example in examples if example.tests and example.answer][:_TRIED_ROWS]
    with sandbox_pool(config.execute) as pool:
        failing = failing_themselves(rows, pool)
    if not failing:
        return None
    return (
        f"{len(failing):,} of the first {len(rows):,} rows do not pass their tests by their own answer, such as row "
        f"'{failing[0].id}' ({failing[0].question[:40]!r}); fix the answer or the tests"
    )


@cache
def _try_sandbox(policy: Literal["strict", "best_effort"]) -> None:
    from lorapar.evaluation.sandbox import Limits, Sandbox

    with Sandbox(Limits(), policy):
        pass


def check_keys_of_servers(nodes: Iterable[Node], config: RunConfig) -> None:
    """Raise BadInputError where a judge or the server of rollouts wants a key, or a header, that is not here.

    Asked with the packages: they are asked only in RL and in evaluation, when votes are paid for and SFT is trained.
    """
    from lorapar.voting.endpoint_client import Login

    stages = {node.stage for node in nodes} & {*config.methods, "evaluate"}
    rewards = [("rl", "rl.rewards", name, one.judge) for name, one in config.rl.reward_configs().items()]
    measures = [("evaluate", "evaluate.judges", name, one.judge) for name, one in config.evaluate.judges.items()]
    for stage, setting, name, judge in [*rewards, *measures]:
        if stage in stages and judge is not None:
            try:
                Login(judge.endpoint, judge.openai or EndpointOptions(), os.environ)
            except BadInputError as error:
                raise BadInputError(f"{setting}: judge '{name}': {error}") from None
    if config.rl.server is not None and "rl" in stages:
        try:
            Login(config.rl.server.endpoint, config.rl.server.openai, os.environ)
        except BadInputError as error:
            raise BadInputError(f"rl.server: {error}") from None


def ahead_of(node: Node, last: str) -> tuple[Node, ...]:
    """A node and those after it, up to and including `last`."""
    names = [one.name for one in GRAPH]
    return GRAPH[names.index(node.name) : names.index(last) + 1]


_WITH_BASE = ("init", "score", "sft", "rl", "publish", "evaluate")


def _needs(node: Node, config: RunConfig) -> Iterable[tuple[str, str, str]]:
    """(who needs it, the package, what to do) for each package beyond those of training that a node needs."""
    if node.stage in _WITH_BASE and is_quantized(config.model, config_values(config.model)):
        yield quantized_by(config.model), QUANTIZER, what_to_do()
    vllm = "use an environment (or the image) with vLLM, or backend transformers"
    if node.stage in ("rl", "evaluate") and config.answers == "math":
        yield "answers: math", "math_verify", f"{pip_install('train,eval')}, or set answers to exact"
    if node.stage == "vote":
        for teacher in config.teachers:
            if teacher.backend == "vllm":
                yield f"teacher '{teacher.name}' with backend vllm", "vllm", vllm
    elif node.stage == "rl":
        if config.rl.rollouts == "vllm" and "rl" in config.methods:
            yield "rl.rollouts vllm", "vllm", "use an environment (or the image) with vLLM, or rollouts transformers"
    elif node.stage == "evaluate":
        if config.evaluate.backend == "vllm":
            yield "evaluate.backend vllm", "vllm", vllm
        if config.evaluate.benchmarks:
            tasks = ", ".join(benchmark.task for benchmark in config.evaluate.benchmarks)
            remedy = f"{pip_install('train,eval')}, or leave evaluate.benchmarks empty"
            yield f"evaluate.benchmarks ({tasks})", "lm_eval", remedy
