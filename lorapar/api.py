"""lorapar for programs: a run on this machine, and a registry. `docs/python.md` is its page.

Everything here raises `lorapar.LoraparError`, whose `exit_code` is the one that the command would end with
(docs/exit-codes.md); anything else that is raised is a bug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from lorapar.config import RunConfig
    from lorapar.progress import Progress
    from lorapar.registry import AliasRecord, Move, Version
    from lorapar.registry import Registry as _Registry
    from lorapar.registry.check import Checked
    from lorapar.registry.overview import AdapterRow, VersionFacts, VersionRow


@dataclass(frozen=True)
class RunResult:
    """What a run has left in its folder."""

    folder: Path
    """The run folder: report.html, metrics.json, and a folder for each stage below `stages/`."""
    metrics: dict[str, Any]
    """metrics.json, as `docs/stages/report.md` describes it."""
    better: bool | None
    """The gate's verdict; None where the run ended before it."""

    @property
    def adapter(self) -> Path | None:
        """The published PEFT folder; None where the run ended before it."""
        folder = self.folder / "adapter"
        return folder if folder.is_dir() else None

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.folder / "report.html"


def run(
    config: RunConfig | Mapping[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    store: str | None = None,
    until: str | None = None,
    fresh: bool = False,
    progress: TextIO | None = None,
) -> RunResult:
    """Run every stage on this machine into one folder, as `lorapar run`; unchanged stages of an earlier run are reused.

    Args:
        config: what `load_config` gives, the same as a mapping, or the path of a YAML file.
        out: the run folder; None: `runs/NAME` of the settings.
        store: s3://BUCKET/PREFIX or a folder in which runs share finished stages; None: the settings' own.
        until: the last stage, such as `partition`; None: all.
        fresh: forget what an earlier run into this folder made.
        progress: gets a line now and then, such as `sys.stderr`; None: nothing is printed.

    Raises:
        LoraparError: of the stage that failed; what was finished stays, and the next call goes on. A gate that finds
            the adapter not better is a result (`RunResult.better`), not an error.
    """
    if "torch" not in sys.modules:  # idle threads that spin slow training threefold on busy cores
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    settings = with_store(_settings(config), store)
    from lorapar.local.results import current_verdict
    from lorapar.local.runner import run_local
    from lorapar.records import read_json

    def reporter(prefix: str) -> AbstractContextManager[Progress]:
        from lorapar.progress import Silent
        from lorapar.terminal import LineProgress

        return nullcontext(Silent()) if progress is None else LineProgress(prefix, progress)

    folder = run_local(settings, Path(out or Path("runs") / settings.name), reporter, until=until, fresh=fresh)
    verdict = current_verdict(folder)
    return RunResult(
        folder=folder.root,
        metrics=read_json(folder.root / "metrics.json"),
        better=bool(verdict["better"]) if verdict is not None else None,
    )


def with_store(settings: RunConfig, store: str | None) -> RunConfig:
    """The settings with another `store.address` (None: their own), whose options hold for this process from now on."""
    from lorapar.store.s3_headers import export_settings

    export_settings(settings.store.model_dump())
    if store is None:
        return settings
    from lorapar.addresses import parse_address

    parse_address(store)
    return settings.model_copy(update={"store": settings.store.model_copy(update={"address": store})})


def _settings(config: RunConfig | Mapping[str, Any] | str | Path) -> RunConfig:
    from lorapar.config import RunConfig, checked_again, load_config, validate_settings

    if isinstance(config, RunConfig):
        return checked_again(config, "config")
    if isinstance(config, Mapping):
        return validate_settings(config, "config")
    return load_config(file=Path(config))


class Registry:
    """Published adapters in a store: versions, aliases, verdicts. Several processes may work on one at once.

    References are `NAME@3`, `NAME@ALIAS`, or `NAME` for `NAME@production`.
    """

    def __init__(self, address: str | Path) -> None:
        """Open the registry at s3://BUCKET/PREFIX or in a folder; credentials are those of the environment."""
        from lorapar.registry import Registry as Opened
        from lorapar.store import open_store

        self._registry: _Registry = Opened(open_store(address))

    @property
    def address(self) -> str:
        """Where it is."""
        return self._registry.address

    def adapters(self) -> list[AdapterRow]:
        """Every adapter, with its aliases."""
        from lorapar.registry.overview import adapter_rows

        return adapter_rows(self._registry)

    def versions(self, name: str) -> list[VersionRow]:
        """Every version of an adapter, the newest first; empty for one that is not there."""
        from lorapar.registry.overview import version_rows

        return version_rows(self._registry, name)

    def show(self, reference: str) -> VersionFacts:
        """One version: digest, files, aliases, verdict, base model, ranks; raises BadInputError for none."""
        from lorapar.registry.overview import version_facts

        return version_facts(self._registry, reference)

    def lineage(self, reference: str) -> dict[str, Any]:
        """lineage.json of a version: base, data, votes, rows, partition, training, every setting; {} without one."""
        from lorapar.registry.overview import lineage_of

        return lineage_of(self._registry, self._registry.resolve(reference))

    def verdicts(self, reference: str) -> list[dict[str, Any]]:
        """What gates said about a version, oldest first."""
        return self._registry.verdicts(self._registry.resolve(reference))

    def history(self, name: str, alias: str = "production") -> tuple[Move, ...]:
        """Every move of an alias, oldest first; empty where there is no such alias."""
        record = self._registry.read_alias(name, alias)
        return record.moves if record is not None else ()

    def pull(self, reference: str, folder: str | Path) -> Version:
        """Fetch a version as a PEFT folder, every byte checked, whole or not at all; replaces an adapter only."""
        from lorapar.registry.registry import pull_into

        return pull_into(self._registry, reference, Path(folder))

    def publish(self, name: str, folder: str | Path) -> Version:
        """Make a PEFT folder a version of `name`; the one that has this content already, where one has."""
        return self._registry.publish(name, Path(folder))

    def promote(self, reference: str, *, override: str | None = None) -> str:
        """Move production to a version; returns what was done, in words.

        Raises NotBetterError (10) where its gate did not find it better, unless `override` says why it is moved all
        the same, and StaleError (11) where production has moved since that verdict.
        """
        from lorapar.registry.promotion import promote_by_hand

        return promote_by_hand(self._registry, self._registry.resolve(reference), override).reason

    def canary(self, reference: str, percent: float) -> AliasRecord:
        """Name a version `candidate` and give it a share of the requests for the bare name, 0 to 100 percent."""
        from lorapar.registry.promotion import start_canary

        return start_canary(self._registry, self._registry.resolve(reference), percent)

    def rollback(self, name: str, *, alias: str = "production", to: int | None = None, reason: str = "") -> AliasRecord:
        """Move an alias back to the version it named before, or to `to`, one of those it named."""
        from lorapar.registry.promotion import roll_back

        return roll_back(self._registry, name, alias, to, reason)

    def verify(self, reference: str | None = None) -> list[Checked]:
        """Fetch and check every byte of a version, an adapter, or (None) everything.

        Everything that was checked is in the list, with its `fault`, which is None for what is whole.
        """
        from lorapar.registry.check import check

        return list(check(self._registry, reference))
