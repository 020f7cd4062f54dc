"""Models of the Hugging Face hub: which commit a revision is, and its files. Works offline from the hub's own cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
from lorapar.progress import Progress

PROBE_SECONDS = 10.0
"""How long the hub may take to say which commit a revision is."""

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def commit_of(config: ModelConfig) -> str:
    """The commit that `config.revision` is now, from the hub or, where it does not answer, from the hub's local cache.

    Raises BadInputError for a name, revision or repository that cannot be used, UnreachableError without an answer.
    """
    with hub_errors(config.name, config.revision, "model"):
        validate_repo_id(config.name)
        try:
            info = HfApi().model_info(config.name, revision=config.revision, timeout=PROBE_SECONDS)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise  # an answer, though not the hoped-for one
        except _SILENCE as error:
            folder = _cached(config)
            if folder is None:
                raise error
            return folder.name
    names = [sibling.rfilename for sibling in info.siblings or []]
    if not any(name.endswith(".safetensors") for name in names):
        raise BadInputError(
            f"model.name: {config.name} holds no .safetensors weights (pickled checkpoints are not read); "
            "choose a revision or a model that has them"
        )
    return str(info.sha)


def snapshot(config: ModelConfig, progress: Progress) -> Path:
    """The folder of a commit's files, downloaded where the hub's local cache lacks it."""
    folder = _cached(config)
    if folder is not None:
        return folder
    progress.say(f"downloading {config.name} from the hub")
    patterns = [*_FILES, "*.py"] if config.trust_remote_code else _FILES
    with hub_errors(config.name, config.revision, "model"):
        return Path(snapshot_download(config.name, revision=config.revision, allow_patterns=patterns))


# The HTTP library's own base error comes by way of huggingface_hub, which changed that library between versions.
_SILENCE = (HTTPError, HfHubHTTPError, OfflineModeIsEnabled, TimeoutError, ConnectionError)


@contextmanager
def hub_errors(name: str, revision: str | None, section: str) -> Iterator[None]:
    """What the hub may answer, as one line: `section` (model, data) is where the person wrote the name."""
    try:
        yield
    except HFValidationError:
        raise BadInputError(
            f"{section}: '{name}' is neither a folder here nor a hub name; hub names are written OWNER/NAME"
        ) from None
    except RevisionNotFoundError:
        raise BadInputError(
            f"{section}.revision: {name} has no branch, tag or commit '{revision}' on the hub"
        ) from None
    except GatedRepoError:
        raise BadInputError(
            f"{section}: {name} is gated; accept its conditions on its hub page, then `hf auth login` or set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise BadInputError(
            f"{section}: there is no '{name}' on the hub, or it is private; check the spelling, or set HF_TOKEN"
        ) from None
    except (LocalEntryNotFoundError, *_SILENCE) as error:
        offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else f" ({type(error).__name__})"
        raise UnreachableError(
            f"{section}: the hub did not answer for {name}{offline}; try again, or name a local folder or file instead"
        ) from None


def _cached(config: ModelConfig) -> Path | None:
    """The folder of the revision in the hub's local cache, if its configuration and weights are there."""
    try:
        folder = Path(snapshot_download(config.name, revision=config.revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    whole = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return folder if whole else None


def config_file(config: ModelConfig) -> Path:
    """The config.json of a commit, downloaded alone: a client asks for sizes without the weights."""
    with hub_errors(config.name, config.revision, "model"):
        return Path(hf_hub_download(config.name, "config.json", revision=config.revision))
