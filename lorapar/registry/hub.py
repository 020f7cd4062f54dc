"""Copy a version to a repository of the Hugging Face hub: `lorapar adapters push`.

The hub's own client does the talking: it finds the token (HF_TOKEN, or the file of `hf auth login`) and the address
(HF_ENDPOINT). What it cannot say is whether all of it arrived, so the files are compared by content before and after.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from lorapar.errors import BadInputError, IntegrityError, LoraparError, UnreachableError
from lorapar.network import heed_proxies, network_cause, trust_authorities
from lorapar.redaction import remember_secret
from lorapar.registry.reference import parse_reference
from lorapar.registry.registry import Registry
from lorapar.registry.versions import Version
from lorapar.store import file_sha256, storage_errors

_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


@dataclass(frozen=True)
class HubTarget:
    """Where on the hub a version goes."""

    repository: str
    """`OWNER/REPO`; made where it is not there."""
    branch: str = constants.DEFAULT_REVISION
    """Made from `main` where it is not there."""
    private: bool = False
    """Of a repository that is made; one that is there and public is refused."""

    def check(self) -> None:
        """Raise BadInputError unless both names are names."""
        owner, _, name = self.repository.partition("/")
        try:
            validate_repo_id(self.repository)
        except HFValidationError:
            name = ""
        if not owner or not name:
            raise BadInputError(
                f"--to {self.repository!r}: not a repository of the hub; they are written OWNER/REPO, in letters, "
                "digits and . _ -"
            )
        if not _BRANCH.fullmatch(self.branch) or ".." in self.branch or self.branch.startswith("refs/"):
            raise BadInputError(f"--revision {self.branch!r}: not a branch; letters, digits and . _ - / name one")


@dataclass(frozen=True)
class Pushed:
    """What `push_to_hub` did."""

    version: Version
    address: str
    """Of the commit that was made; of the branch, where everything was there already."""
    new: bool
    """False: the branch had this very content already, and nothing was changed."""


def push_to_hub(registry: Registry, reference: str, target: HubTarget) -> Pushed:
    """Pull a version, verified, and make the files of a hub branch its files; others that are there stay.

    Raises what `Registry.pull` raises; BadInputError for names that are none and for a public repository that should
    be private, UnreachableError where the hub is silent or refuses, IntegrityError where not everything arrived.
    """
    target.check()
    parse_reference(reference)
    remember_secret(get_token())
    with tempfile.TemporaryDirectory(prefix="lorapar-") as scratch:
        folder = Path(scratch) / "adapter"
        with storage_errors(folder):
            version = registry.pull(reference, folder)
        with _hub_errors(target.repository):
            return _push(HfApi(), version, folder, target)


def _push(api: HfApi, version: Version, folder: Path, target: HubTarget) -> Pushed:
    _make_repository(api, target)
    if not _differing(api, target.repository, target.branch, folder):
        return Pushed(version, f"{api.endpoint}/{target.repository}/tree/{target.branch}", new=False)
    if target.branch != constants.DEFAULT_REVISION:
        api.create_branch(target.repository, branch=target.branch, exist_ok=True)
    commit = api.upload_folder(
        repo_id=target.repository,
        folder_path=folder,
        revision=target.branch,
        commit_message=f"{version} ({version.digest[:12]})",
        commit_description=f"Version {version.number} of the adapter {version.name}, digest {version.digest}",
    )
    lost = _differing(api, target.repository, commit.oid, folder)
    if lost:
        raise IntegrityError(
            f"{target.repository}: {lost[0]} is not on the hub as it is in {version}; does a .gitignore in that "
            "repository leave it out? push again once it does not"
        )
    return Pushed(version, str(commit.commit_url), new=True)


def _make_repository(api: HfApi, target: HubTarget) -> None:
    try:
        found = api.model_info(target.repository)
    except RepositoryNotFoundError:  # or one that this token may not see: making it will tell
        api.create_repo(target.repository, private=target.private or None, exist_ok=True)
        return
    if target.private and not found.private:
        raise BadInputError(
            f"--private: {target.repository} is there already and public; make it private on the hub, or leave "
            "--private out"
        )


def _differing(api: HfApi, repository: str, revision: str, folder: Path) -> list[str]:
    """Files of the folder that the hub lacks or has otherwise; large ones it names by sha256, others by SHA-1."""
    try:
        entries = list(api.list_repo_tree(repository, revision=revision, recursive=True))
    except (RevisionNotFoundError, EntryNotFoundError):  # no such branch yet, or nothing in it
        entries = []
    there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return [name for name, path in files.items() if name not in there or not _same(there[name], path)]


def _same(found: RepoFile, path: Path) -> bool:
    if found.lfs is not None:
        return str(found.lfs.sha256) == file_sha256(path)
    data = path.read_bytes()
    return str(found.blob_id) == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """What the hub may answer, as one line."""
    trust_authorities()
    heed_proxies(constants.ENDPOINT)
    try:
        yield
    except HfHubHTTPError as error:
        raise _refused(repository, error) from None
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        if cause := network_cause(error, constants.ENDPOINT):
            raise UnreachableError(f"{repository}: the hub did not answer: {cause}") from None
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else type(error).__name__
        raise UnreachableError(
            f"{repository}: the hub did not answer ({why}); check the network and HF_ENDPOINT, then push again"
        ) from None
    except RuntimeError as error:  # an upload of one file that failed, in whichever of the client's protocols
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _refused(repository, error.__cause__) from None
        raise UnreachableError(f"{repository}: the upload broke off ({_one_line(error)}); push again") from None
    except ValueError as error:  # of the client: what it was given, or what it was answered, is not as it should be
        if "README.md" in str(error):
            raise BadInputError(f"{repository}: the hub will not take the model card: {_one_line(error)}") from None
        raise UnreachableError(f"{repository}: the hub's answer makes no sense ({_one_line(error)})") from None


def _refused(repository: str, error: HfHubHTTPError) -> LoraparError:
    status = error.response.status_code
    if status in (401, 403, 404):
        how = "it needs HF_TOKEN, or `hf auth login`, with a token that may write to it"
        return UnreachableError(f"{repository}: the hub refused ({status}); {how}")
    if status >= 500 or status in (408, 429):
        return UnreachableError(f"{repository}: the hub is in trouble or too busy ({status}); push again later")
    message = _one_line(error.server_message or "no reason given")
    kind = BadInputError if status in (400, 422) else UnreachableError
    return kind(f"{repository}: the hub refused ({status}): {message}")


def _one_line(message: object) -> str:
    return " ".join(str(message).split())[:200]
