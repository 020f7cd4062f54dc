"""Versions on this machine's disk: downloaded to a scratch folder, verified, renamed, and never changed afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

from lorapar.config.adapter import kind_of_peft, not_served
from lorapar.errors import BadInputError, IntegrityError
from lorapar.records import read_json
from lorapar.registry import Registry, Version
from lorapar.registry.signature import require_trusted
from lorapar.serving.base_identity import ServedBase
from lorapar.store import storage_errors, verify
from lorapar.store.file_system import locked, make_young


class AdapterCache:
    """Downloaded versions below one folder, as `<name>/<version>/`; several processes may share it.

    vLLM 0.32 does not compare `base_model_name_or_path` with its own model when it loads an adapter (only its file
    system resolver does), so an adapter of another base would load wherever shapes fit. So this class compares name and
    identity.
    """

    def __init__(self, registry: Registry, folder: Path, base: ServedBase | None = None) -> None:
        self.registry = registry
        self.folder = folder.expanduser()
        self.base = base or ServedBase()

    def fetch(self, name: str, number: int, *, digest: str | None = None) -> Path:
        """The folder of a version, complete and verified.

        Args:
            digest: the version's digest according to an alias; another one is refused.

        Raises BadInputError for a version that does not exist or was made for another base model. Raises IntegrityError
        for bytes that differ from those published, or, where trusted keys are set, for a version that none of them
        signed. Raises UnreachableError where the registry does not answer and is needed: for a download or for
        signatures.
        """
        folder = self.folder / name / str(number)
        with storage_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(folder.with_name(f".{number}.lock")):
                found = self._verified(folder)
                if found is None:
                    found = self._pulled(name, number, folder)
                else:  # perhaps from before keys were required, or signed by a key that is no longer trusted
                    require_trusted(self.registry.store, Version(name=name, number=number, digest=found))
        if digest is not None and found != digest:
            raise IntegrityError(
                f"{name}@{number}: its digest is {found[:12]}, not the alias's {digest[:12]}; it is not used"
            )
        self._check_base(name, number, folder)
        return folder

    def prune(self, name: str, keep: frozenset[int], spare: int) -> list[int]:
        """Remove downloaded versions of `name` except `keep` and the `spare` latest used; returns the removed ones."""
        folders = [path for path in (self.folder / name).glob("*") if path.name.isdigit() and path.is_dir()]
        idle = [path for path in folders if int(path.name) not in keep]
        idle.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in idle[spare:]:
            shutil.rmtree(path, ignore_errors=True)
        return sorted(int(path.name) for path in idle[spare:])

    def _verified(self, folder: Path) -> str | None:
        """Digest of a downloaded, intact version; removes a damaged one, so that it is downloaded again."""
        if not folder.is_dir():
            return None
        try:
            digest = verify(folder).digest
        except IntegrityError:
            shutil.rmtree(folder, ignore_errors=True)
            return None
        make_young(folder)  # `prune` reads this as its last use
        return digest

    def _pulled(self, name: str, number: int, folder: Path) -> str:
        version: Version = self.registry.pull(f"{name}@{number}", folder)
        return version.digest

    def _check_base(self, name: str, number: int, folder: Path) -> None:
        config = read_json(folder / "adapter_config.json")
        if (refused := not_served(kind_of_peft(config))) is not None:
            raise BadInputError(f"{name}@{number} {refused}; load it with PEFT")
        made_for = config.get("base_model_name_or_path")
        if self.base.name and made_for != self.base.name:
            raise BadInputError(
                f"{name}@{number} was made for the base model '{made_for}', this server has '{self.base.name}'; "
                "serve it on its own base, or say in LORAPAR_SERVING_BASE_MODEL that a local copy is that model"
            )
        self.base.refuse_other(f"{name}@{number}", folder)
