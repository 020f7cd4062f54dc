"""A registry of adapters in an object store: no database, only objects (`lorapar.registry.layout`)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lorapar.errors import BadInputError, IntegrityError, StaleError, nearest
from lorapar.registry.aliases import Aliases, AliasRecord, Move, move_to
from lorapar.registry.layout import ROOT, version_prefix
from lorapar.registry.reference import PRODUCTION, check_alias, check_name, parse_reference
from lorapar.registry.signature import require_trusted, sign_if_asked
from lorapar.registry.verdicts import Verdicts
from lorapar.registry.versions import Claim, Version, Versions, content_manifest, new_claim
from lorapar.store import (
    MANIFEST,
    Manifest,
    NotFoundError,
    ObjectStore,
    make_folder,
    make_writable_folder,
    refuse_other_content,
    replace_folder,
    storage_errors,
    verify,
)
from lorapar.store.base import LOCAL


class Registry:
    """Versions, aliases and verdicts of adapters in one store; several processes may work on it at once.

    Publishing and moving aliases need a role that may read, list and write; all else needs reading and listing; only
    collecting (`lorapar.registry.collect`) deletes. Names from outside are checked before they reach a key.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.version_store = Versions(store, before_visible=partial(sign_if_asked, store))
        self.alias_store = Aliases(store)
        self.verdict_store = Verdicts(store)

    @property
    def address(self) -> str:
        """Where it was opened."""
        return self.store.address

    def publish(self, name: str, folder: Path, claim: Claim | None = None, manifest: Manifest | None = None) -> Version:
        """Make the content of a PEFT folder a version of `name`; the one that has this content already, where one has.

        Args:
            claim: how it came to be published; made up from who and when where absent.
            manifest: `content_manifest(folder)`, where the caller has it already.

        Of publishers that race with one content all get the same version; a killed one is finished by the next.
        """
        check_name(name)
        self._refuse_same_place(name)
        manifest = manifest or content_manifest(folder)
        return self.version_store.publish(name, folder, claim or new_claim(manifest.digest), manifest)

    def find(self, name: str, digest: str) -> Version | None:
        """The version of `name` with this content digest; None where there is none."""
        return self.version_store.find(check_name(name), digest)

    def names(self) -> list[str]:
        """Names of all adapters with a visible version or an alias."""
        found = {entry.key.split("/")[1] for entry in self.store.list(f"{ROOT}/") if entry.key.count("/") >= 2}
        return sorted(found)

    def versions(self, name: str) -> list[int]:
        """Numbers of the visible versions, lowest first; empty for an adapter that is not there."""
        return self.version_store.numbers(check_name(name))

    def resolve(self, reference: str) -> Version:
        """The version that `NAME@3`, `NAME@ALIAS` or `NAME` (production) means; raises BadInputError."""
        parsed = parse_reference(reference)
        number = parsed.version
        if number is None:
            record = self.alias_store.read(parsed.name, parsed.alias or PRODUCTION)
            if record is None:
                raise BadInputError(self._no_alias(parsed.name, parsed.alias or PRODUCTION))
            number = record.version
        version = self.version_store.get(parsed.name, number)
        if version is None and parsed.alias is not None:
            raise IntegrityError(
                f"{parsed}: it names version {number}, which is not in the registry {self.address}; move it to one "
                f"that is there: `lorapar adapters list {parsed.name}` shows them"
            )
        if version is None:
            raise BadInputError(self._no_version(parsed.name, number))
        return version

    def aliases(self, name: str) -> dict[str, AliasRecord]:
        """Every alias of an adapter by its name."""
        return self.alias_store.all(check_name(name))

    def read_alias(self, name: str, alias: str) -> AliasRecord | None:
        """What an alias names, and named before; None where there is no such alias."""
        return self.alias_store.read(check_name(name), check_alias(alias))

    def move_alias(
        self,
        name: str,
        alias: str,
        version: int,
        *,
        expected: int | None,
        reason: str = "",
        rollback: bool = False,
    ) -> AliasRecord:
        """Move an alias by compare-and-swap: only if it still names version `expected` (None: it names none).

        An alias that names `version` already is left as it is. Raises StaleError where it names anything else, and
        where the version was collected meanwhile; BadInputError where there is no such version.
        """
        to = self._version(check_name(name), version)
        change = move_to(to, reason, rollback=rollback)
        return self._still_there(to, self.alias_store.move(check_alias(alias), to, change, expected=expected), alias)

    def set_alias(self, name: str, alias: str, version: int, *, reason: str = "") -> AliasRecord:
        """Move an alias whatever it names now: the last mover wins, and the history keeps every move."""
        to = self._version(check_name(name), version)
        return self._still_there(to, self.alias_store.set(check_alias(alias), to, move_to(to, reason)), alias)

    def set_share(self, name: str, alias: str, version: int, share_percent: float, *, reason: str = "") -> AliasRecord:
        """Give the version an alias names a share of the requests for the bare name (a canary); StaleError as above."""
        return self.alias_store.set_share(check_name(name), check_alias(alias), version, share_percent, reason)

    def manifest(self, version: Version) -> Manifest:
        """The manifest of a version; raises BadInputError where it is not there."""
        found = self.version_store.manifest(version.name, version.number)
        if found is None:
            raise BadInputError(self._no_version(version.name, version.number))
        return found

    def claim(self, version: Version) -> Claim:
        """Who published a version, when, in which run, and what its verification measured."""
        return self.version_store.claim(version)

    def find_claim(self, version: Version) -> Claim | None:
        """As `claim`, but None where somebody has deleted it."""
        return self.version_store.find_claim(version.name, version.number)

    def mend_manifest(self, name: str, folder: Path, manifest: Manifest) -> Version | None:
        """Put back the damaged manifest of the version that has a folder's content; None where none is damaged."""
        return self.version_store.mend_manifest(check_name(name), folder, manifest)

    def read_file(self, version: Version, file: str) -> bytes:
        """A small file of a version, with the sha256 its manifest names; raises NotFoundError, IntegrityError."""
        entry = self._manifest_of(version).files.get(file)
        key = version_prefix(version.name, version.number) + file
        if entry is None:
            raise NotFoundError(f"{self.address}/{key}: no file of {version}")
        data = self.store.read(key)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise IntegrityError(
                f"{self.address}/{key}: its bytes are not those the manifest names; {version} cannot be used until its "
                "content is published again"
            )
        return data

    def read_json_file(self, version: Version, file: str) -> dict[str, Any]:
        """A JSON object among the files of a version; raises as `read_file` does."""
        try:
            found = json.loads(self.read_file(version, file))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            address = f"{self.address}/{version_prefix(version.name, version.number)}{file}"
            raise IntegrityError(f"{address}: not a JSON object, as it was published; publish another version")
        return found

    def require_whole(self, version: Version) -> None:
        """Raise IntegrityError where files of a version are missing or their bytes not those its manifest names."""
        damaged = next(self.version_store.damaged(version, self._manifest_of(version)), None)
        if damaged is not None:
            raise IntegrityError(
                f"{self.address}/{version_prefix(version.name, version.number)}{damaged}: missing, or its bytes are "
                f"not those the manifest names; {version} cannot be used until its content is published again"
            )

    def restore(self, version: Version, folder: Path) -> list[str]:
        """Put back damaged files of a version from a folder with the same content; returns their names."""
        return self.version_store.restore(version, folder, self.manifest(version))

    def pull(self, reference: str, folder: Path) -> Version:
        """Make `folder` the files of a version, each with the size and sha256 its manifest names, or not at all.

        Raises BadInputError for what is not there, IntegrityError for bytes that are not those of the manifest and,
        where trusted keys are set (`lorapar.registry.signature`), for a version that none of them has signed.
        """
        version = self.resolve(reference)
        require_trusted(self.store, version)
        manifest = self._manifest_of(version)
        scratch = folder.with_name(f".{folder.name}.pulling")
        shutil.rmtree(scratch, ignore_errors=True)
        make_folder(scratch)
        try:
            self._download(version, manifest, scratch)
            replace_folder(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return version

    def add_verdict(self, version: Version, verdict: dict[str, Any]) -> None:
        """Put a gate's verdict beside a version; one that is the latest already is not added twice."""
        self.verdict_store.add(version, verdict)

    def verdicts(self, version: Version) -> list[dict[str, Any]]:
        """Every verdict on a version, oldest first."""
        return self.verdict_store.read(version)

    def _download(self, version: Version, manifest: Manifest, folder: Path) -> None:
        prefix = version_prefix(version.name, version.number)
        for file in manifest.files:
            _refuse_outside(version, file)
            try:
                self.store.download(prefix + file, folder / file)
            except NotFoundError:
                raise IntegrityError(f"{self.address}/{prefix}{file}: named in the manifest but missing") from None
        (folder / MANIFEST).write_text(
            manifest.model_dump_json(indent=2), encoding="utf-8"
        )  # the bytes it has in the store
        try:
            verify(folder)
        except IntegrityError as error:
            what = str(error).partition("; ")[0].replace(f"{folder}/", f"{self.address}/{prefix}")
            raise IntegrityError(f"{what}; {version} is not used; publish its content again") from None

    def _manifest_of(self, version: Version) -> Manifest:
        """The manifest whose digest is the version's: it was read, and its signature checked, a moment ago."""
        manifest = self.manifest(version)
        if manifest.digest != version.digest:
            raise IntegrityError(f"{self.address}: the manifest of {version} changed while it was read; it is not used")
        return manifest

    def _version(self, name: str, number: int) -> Version:
        found = self.version_store.get(name, number)
        if found is None:
            raise BadInputError(self._no_version(name, number))
        return found

    def _still_there(self, to: Version, record: AliasRecord, alias: str) -> AliasRecord:
        """The other half of collecting: it takes the manifest away, then looks at the aliases; here it is reversed."""
        if self.version_store.manifest(to.name, to.number) is not None:
            return record
        before = record.before
        earlier = self.version_store.get(to.name, before) if before is not None else None
        if earlier is not None:
            with suppress(StaleError):
                undo: Move = move_to(earlier, f"version {to.number} was collected meanwhile", rollback=True)
                self.alias_store.move(alias, earlier, undo, expected=to.number)
        raise StaleError(f"{to} was collected while {to.name}@{alias} was moved to it; publish its content again")

    def _no_version(self, name: str, number: int) -> str:
        known = self.versions(name)
        return f"{name}@{number}: not in the registry {self.address}; " + (
            f"it has version{'s' if len(known) > 1 else ''} {', '.join(map(str, known[-10:]))} of it"
            if known
            else self._no_adapter(name)
        )

    def _no_alias(self, name: str, alias: str) -> str:
        known = sorted(self.aliases(name))
        if known:
            return f"{name}@{alias}: no such alias{nearest(alias, known)}; {name} has: {', '.join(known)}"
        return f"{name}@{alias}: not in the registry {self.address}; {self._no_adapter(name)}"

    def _refuse_same_place(self, name: str) -> None:
        """Refuse a name that another adapter's folder has too, where a file system knows no capital letters."""
        root = Path(self.address) / ROOT
        if self.store.endpoint != LOCAL:
            return
        with storage_errors(root):
            if not (root / name).exists():
                return
            there = os.listdir(root)
        alike = next((one for one in there if one.casefold() == name.casefold()), None)
        if alike is not None and name not in there:
            raise BadInputError(
                f"{self.address}: '{alike}' is there already, and this file system takes '{name}' for the same "
                "name; choose one that differs otherwise too"
            )

    def _no_adapter(self, name: str) -> str:
        known = self.names()
        return f"it has no adapter {name}{nearest(name, known)}" if name not in known else f"{name} has no alias yet"


def pull_into(registry: Registry, reference: str, folder: Path) -> Version:
    """`Registry.pull` for a folder that a person names; raises as it does and as `require_place`."""
    require_place(folder)
    with storage_errors(folder):
        return registry.pull(reference, folder)


def require_place(folder: Path) -> None:
    """Raise where a pull would replace something that no pull has made, or could not write; makes the folder above."""
    complaint = f"{folder}: holds other things than an adapter, and pull replaces a folder; name a new one"
    refuse_other_content(folder, complaint, lambda folder: (folder / "adapter_config.json").is_file())
    if folder.exists() and not folder.is_dir():
        raise BadInputError(f"{folder}: is a file; name a folder to make")
    with storage_errors(folder):
        make_writable_folder(folder.parent)


def _refuse_outside(version: Version, file: str) -> None:
    """A manifest is data from outside: a file name in it must stay below the folder it is downloaded to."""
    parts = file.split("/")
    if file.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise IntegrityError(f"{version}: its manifest names the file {file!r}, which is not inside it; it is not used")
