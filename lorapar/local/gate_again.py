"""The gate once more, for a version that was changed after its run: on the run's held-out rows, settings and remembered
answers, by the gate's own paired test."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorapar.config import GateConfig
from lorapar.errors import BadInputError, NotBetterError
from lorapar.evaluation import Judged, judge, read_outcomes
from lorapar.local.folder import RunFolder
from lorapar.progress import Progress
from lorapar.records import read_json
from lorapar.registry import Version, read_published
from lorapar.stages import evaluate
from lorapar.stages.contract import StageCall
from lorapar.store import verify


def run_of(version: Version, where_from: str, given: Path | None) -> Path:
    """The folder of the run that made a version: the one given, or the one its claim names, where it is here.

    Raises BadInputError where there is none, or where it is the folder of a run that made another version.
    """
    named = where_from if where_from.startswith("/") else where_from.partition(":")[2]  # maybe HOST:FOLDER
    folder = given or (Path(named) if named.startswith("/") else None)
    if folder is None or not (folder / "stages" / "tally" / "heldout").is_dir():
        where = f"--run {given}: holds" if given else f"{version}: its run ({where_from or 'unknown'}) is not here with"
        raise BadInputError(
            f"{where} {'no ' if given else ''}held-out rows for the gate; give --run with the folder of the run, or "
            "--no-gate to publish on the comparison of logits alone"
        )
    published = folder / "stages" / "publish" / "version"
    if not published.is_dir() or read_published(published).digest != version.digest:
        raise BadInputError(f"{folder}: is not the run that published {version}; give the one that did, or --no-gate")
    return folder


def gate_again(run: Path, original: Path, changed: Path, progress: Progress) -> Judged:
    """Ask a version and what was made of it the rows of its run, and judge the latter against the former.

    Answers that the run remembers (those of the base) are not asked again. `better` of the result means little here:
    `require_no_loss` says what counts. Raises BadInputError where the run's evaluation was written by another version
    of lorapar.
    """
    stages = run / "stages"
    gate = (
        _recorded(stages / "gate", GateConfig, "gate") if (stages / "gate" / "stage.json").is_file() else GateConfig()
    )
    settings = _recorded(stages / "evaluate", evaluate.Settings)
    heldout = stages / "tally" / "heldout"
    verify(heldout)
    with tempfile.TemporaryDirectory(prefix="lorapar-") as name:
        scratch = Path(name)
        for folder in ("incumbent", "evaluation", "work"):
            (scratch / folder).mkdir()
        # The version takes the place of the adapter after SFT, which is no matter here, so that it is asked once.
        inputs = {"heldout": heldout, "after_sft": original, "published": changed, "incumbent": scratch / "incumbent"}
        call = StageCall(
            settings,
            {key: (path,) for key, path in inputs.items()},
            {"evaluation": scratch / "evaluation"},
            scratch / "work",
            progress,
            cache=RunFolder(run).cache,
        )
        evaluate.run(call)
        found = read_outcomes(scratch / "evaluation", gate.rule)
    outcomes = {
        measure: {{"after_sft": "incumbent"}.get(model, model): rows for model, rows in models.items()}
        for measure, models in found.items()
    }
    return judge(outcomes, gate, "incumbent")


def require_no_loss(source: Version, found: Judged) -> None:
    """Raise NotBetterError where a version lost what the gate's guards forbid, or more than noise."""
    broken = [guard.measure for guard in found.guards if not guard.held]
    certain = found.gain.interval[1] < 0
    if broken or certain:
        raise NotBetterError(
            f"{source} packed is worse than it was, so it is not published: "
            f"{found.reasons[-1] if broken else found.reasons[0]}"
        )


def _recorded(stage: Path, kind: Any, section: str | None = None) -> Any:
    """The settings that a stage of the run had."""
    settings = read_json(stage / "stage.json")["settings"]
    try:
        return kind.model_validate(settings[section] if section else settings)
    except (KeyError, ValidationError):
        raise BadInputError(
            f"{stage}: was written by another version of lorapar, whose settings this one cannot read; give --no-gate"
        ) from None
