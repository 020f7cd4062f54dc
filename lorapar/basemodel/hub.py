"""Models of the Hugging Face hub: which commit a revision is, and its files. Works offline from the hub's own cache."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeVar

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, UnreachableError
from lorapar.network import heed_proxies, network_cause, trust_authorities
from lorapar.places import cache_folder
from lorapar.progress import Progress
from lorapar.store.artifact import write_atomically

PROBE_SECONDS = 10.0
"""How long the hub may take to say which commit a revision is."""

Kind = Literal["model", "dataset", "adapter"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TEXT_FILES = ["*.json", "*.jinja", "*.model", "*.txt"]
_FILES = [*_TEXT_FILES, "*.safetensors"]


_SILENT_SECONDS = 60.0
"""How long a hub that has kept this process waiting is taken to be silent still."""
_WAITED_SECONDS = 0.5
"""A silence that took no longer may be asked into again at once."""
_Answer = TypeVar("_Answer")
_silences: dict[str, tuple[float, Exception]] = {}
"""By the hub's address, until when (monotonic) it is not asked, and what its silence was."""


def _ask(question: Callable[[], _Answer], *, downloads: bool = False) -> _Answer:
    """What the hub answers; a hub that let one question run into its timeout is not waited for with each of the next.

    A download that breaks off says nothing of that: the hub had answered. Raises what the hub's client does, at once
    where a question of the last minute was waited for in vain.
    """
    until, earlier = _silences.get(constants.ENDPOINT, (0.0, None))
    began = time.monotonic()
    if earlier is not None and began < until:
        raise earlier
    try:
        return question()
    except (LocalEntryNotFoundError, *_SILENCE) as error:
        broke_off = downloads and not isinstance(error, LocalEntryNotFoundError)
        if not broke_off and getattr(error, "response", None) is None and time.monotonic() - began >= _WAITED_SECONDS:
            _silences[constants.ENDPOINT] = (time.monotonic() + _SILENT_SECONDS, error)
        raise


def commit_of(name: str, revision: str | None, kind: Kind) -> str:
    """The commit that a revision is now, from the hub or, where it does not answer, from the hub's local cache.

    Raises BadInputError for a name, revision or repository that cannot be used, UnreachableError without an answer.
    """
    with hub_errors(name, revision, kind):
        validate_repo_id(name)
        if revision is not None and _COMMIT.fullmatch(revision) and _cached(name, revision, kind) is not None:
            return revision
        try:
            commit = _ask(lambda: _asked(name, revision, kind))
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise  # an answer, though not the hoped-for one
        except _SILENCE as error:
            folder = _cached(name, revision, kind) or _cached_earlier(name, revision, kind)
            if folder is None:
                raise error
            return folder.name
        with suppress(OSError):
            path = _answer_file(name, revision, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, commit)
        return commit


def _answer_file(name: str, revision: str | None, kind: Kind) -> Path:
    """Where the commit is kept that the hub named last: its own cache keeps none of what is fetched by a commit."""
    return cache_folder() / "hub" / sha256(f"{kind} {name} {revision}".encode()).hexdigest()[:32]


def _cached_earlier(name: str, revision: str | None, kind: Kind) -> Path | None:
    try:
        commit = _answer_file(name, revision, kind).read_text(encoding="utf-8")
    except OSError:
        return None
    return _cached(name, commit, kind) if _COMMIT.fullmatch(commit) else None


def _asked(name: str, revision: str | None, kind: Kind) -> str:
    if kind == "dataset":
        return str(HfApi().dataset_info(name, revision=revision, timeout=PROBE_SECONDS).sha)
    info = HfApi().model_info(name, revision=revision, timeout=PROBE_SECONDS)
    if not any(sibling.rfilename.endswith(".safetensors") for sibling in info.siblings or []):
        raise BadInputError(
            f"model.name: {name} holds no .safetensors weights (pickled checkpoints are not read); "
            "choose a revision or a model that has them"
        )
    return str(info.sha)


def snapshot(config: ModelConfig, progress: Progress) -> Path:
    """The folder of a commit's files, downloaded where the hub's local cache lacks it."""
    folder = _cached(config.name, config.revision, "model")
    if folder is not None:
        return folder
    progress.log(f"downloading {config.name} from the hub")
    patterns = [*_FILES, "*.py"] if config.trust_remote_code else _FILES
    with hub_errors(config.name, config.revision, "model"):
        return _downloaded(config.name, config.revision, patterns)


def cached_snapshot(config: ModelConfig) -> Path | None:
    """The folder of a commit's files where the hub's local cache has it; nothing is asked."""
    return _cached(config.name, config.revision, "model")


def cached_dataset(name: str, commit: str) -> bool:
    """Whether the hub's local cache has a data set's commit; nothing is asked."""
    return _cached(name, commit, "dataset") is not None


def text_snapshot(config: ModelConfig) -> Path:
    """The folder of a commit's tokenizer and settings, downloaded without the weights where the cache lacks them."""
    patterns = [*_TEXT_FILES, "*.py"] if config.trust_remote_code else _TEXT_FILES
    folder = _cached(config.name, config.revision, "model")
    if folder is not None:
        return folder
    with hub_errors(config.name, config.revision, "model"):
        return _downloaded(config.name, config.revision, patterns)


def adapter_commit(name: str, revision: str | None) -> str:
    """The commit that a revision of an adapter's repository is now; raises as `commit_of` does."""
    with hub_errors(name, revision, "adapter"):
        validate_repo_id(name)
        try:
            info = _ask(lambda: HfApi().model_info(name, revision=revision, timeout=PROBE_SECONDS))
        except (RevisionNotFoundError, RepositoryNotFoundError):
            raise
        except _SILENCE as error:
            try:
                return Path(snapshot_download(name, revision=revision, local_files_only=True)).name
            except (LocalEntryNotFoundError, OSError, ValueError):
                raise error from None
    files = {sibling.rfilename for sibling in info.siblings or []}
    missing = next((one for one in ("adapter_config.json", "adapter_model.safetensors") if one not in files), None)
    if missing is not None:
        raise BadInputError(
            f"model.adapter: {name} on the hub has no {missing}; name the repository of a PEFT adapter in safetensors"
        )
    return str(info.sha)


def adapter_snapshot(name: str, commit: str, files: Sequence[str]) -> Path:
    """A folder with these files of an adapter's commit, downloaded where the hub's local cache lacks it."""
    with hub_errors(name, commit, "adapter"):
        return _downloaded(name, commit, list(files))


def _downloaded(name: str, revision: str | None, patterns: list[str]) -> Path:
    return Path(_ask(lambda: snapshot_download(name, revision=revision, allow_patterns=patterns), downloads=True))


# The HTTP library's own base error comes by way of huggingface_hub, which changed that library between versions.
_SILENCE = (HTTPError, HfHubHTTPError, OfflineModeIsEnabled, TimeoutError, ConnectionError)


_SETTINGS = {
    "model": ("model.name", "model.revision"),
    "dataset": ("data.source", "data.revision"),
    "adapter": ("model.adapter", "model.adapter"),
}
"""The settings that name a repository and its revision, for messages."""


@contextmanager
def hub_errors(name: str, revision: str | None, kind: Kind) -> Iterator[None]:
    """What the hub may answer, as one line that names the setting."""
    setting, revision_setting = _SETTINGS[kind]
    trust_authorities()
    if not constants.HF_HUB_OFFLINE:
        heed_proxies(constants.ENDPOINT)
    try:
        yield
    except HFValidationError:
        raise BadInputError(
            f"{setting}: '{name}' is neither a folder here nor a hub name; hub names are written OWNER/NAME"
        ) from None
    except RevisionNotFoundError:
        raise BadInputError(
            f"{revision_setting}: {name} has no branch, tag or commit '{revision}' on the hub"
        ) from None
    except GatedRepoError:
        raise BadInputError(
            f"{setting}: {name} is gated; accept its conditions on its hub page, then `hf auth login` or set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise BadInputError(
            f"{setting}: there is no '{name}' on the hub, or it is private; check the spelling, or set HF_TOKEN"
        ) from None
    except (LocalEntryNotFoundError, *_SILENCE) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else type(error).__name__
        instead = "local file" if kind == "dataset" else "local folder"
        if cause := network_cause(error, constants.ENDPOINT):
            raise UnreachableError(f"{setting}: the hub did not answer for {name}: {cause}") from None
        raise UnreachableError(
            f"{setting}: the hub did not answer for {name} ({why}); try again, or name a {instead} instead"
        ) from None


def _cached(name: str, revision: str | None, kind: Kind) -> Path | None:
    """The folder of the revision in the hub's local cache, if it is whole."""
    try:
        folder = Path(snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return folder if kind == "dataset" or _is_whole(folder) else None


def _is_whole(folder: Path) -> bool:
    """Whether configuration, tokenizer and all weights are there: a download may have been cut short."""
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    wanted = ["config.json", "tokenizer_config.json", *shards]
    return all((folder / name).is_file() for name in wanted)


def config_file(config: ModelConfig) -> Path:
    """The config.json of a commit, downloaded alone: a client asks for sizes without the weights."""
    with hub_errors(config.name, config.revision, "model"):
        return Path(_ask(lambda: hf_hub_download(config.name, "config.json", revision=config.revision)))
