"""Adapters at steps of a run before its last one, of which `publish.pick: best` may choose.

candidates/step-000010/    the adapter as it was after step 10: a PEFT folder, and nothing else
candidates/summary.json    `steps`, those of the whole run, and `system`, whose elements it trained

The steps follow from the settings alone, not from when checkpoints were due, so a run that was stopped and went on
keeps the same ones with the same bytes. Importable without torch.
"""

from __future__ import annotations

from pathlib import Path

from lorapar.store.file_system import copy_files

CANDIDATES = "candidates"
_STEP = "step-"


def candidate_steps(steps: int, count: int) -> tuple[int, ...]:
    """The steps of `count` adapters at even distances, without the last one, which is the run's own result.

    Fewer where a run has not so many steps.
    """
    return tuple(sorted({round(steps * place / count) for place in range(1, count)} - {0, steps}))


def candidate_folder(root: Path, step: int) -> Path:
    """Where the adapter after a step is kept below `root`."""
    return root / CANDIDATES / f"{_STEP}{step:06d}"


def candidates_in(root: Path) -> dict[int, Path]:
    """The adapters that are kept below `root` by their step, the earliest first."""
    found = {path.name.removeprefix(_STEP): path for path in (root / CANDIDATES).glob(f"{_STEP}*")}
    return {int(step): found[step] for step in sorted(found) if step.isdigit()}


def copy_candidates(source: Path, target: Path) -> None:
    """Hand on what an earlier phase or node has kept, where it kept some."""
    if (source / CANDIDATES).is_dir():
        copy_files(source / CANDIDATES, target / CANDIDATES)
