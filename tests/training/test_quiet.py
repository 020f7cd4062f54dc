"""The libraries say nothing of their own, and nothing they warn about is lost."""

from __future__ import annotations

import logging
import warnings

import datasets
import pytest
from transformers.utils import logging as transformers_logging

from lorapar.training.quiet import quiet_libraries


def test_warnings_become_one_line_each(kit, capfd: pytest.CaptureFixture[str]) -> None:
    notes = kit.Notes()
    with quiet_libraries(notes):
        for _ in range(2):
            logging.getLogger("trl.trainer").warning("rows are\n  odd")
            warnings.warn("numbers are odd", UserWarning, stacklevel=1)
        logging.getLogger("transformers").info("chatter")
        warnings.warn("will be renamed", FutureWarning, stacklevel=1)
    assert notes.lines == ["trl: rows are odd", "UserWarning: numbers are odd"]
    assert capfd.readouterr() == ("", "")


def test_all_is_as_before_afterwards(kit) -> None:
    def state() -> tuple[object, ...]:
        logger = logging.getLogger("transformers")
        bars = transformers_logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
        return list(logger.handlers), logger.propagate, bars, warnings.showwarning

    before = state()
    with quiet_libraries(kit.Notes()):
        assert datasets.are_progress_bars_disabled()
        assert state() != before
    assert state() == before


def test_training_prints_nothing_and_warns_of_nothing(make_job, kit, capfd: pytest.CaptureFixture[str]) -> None:
    from lorapar.config import SftConfig
    from lorapar.training.sft import train_sft

    job = make_job()
    train_sft(job, SftConfig(max_steps=2, gradient_accumulation=2), system1=kit.words(4), system2=[])
    assert capfd.readouterr() == ("", "")
    assert job.progress.lines == []
