"""What a stage says while it works, where nobody reads it any more."""

from __future__ import annotations

import os

import pytest

from lorapar.terminal import LineProgress, harmless


def test_a_closed_output_pipe_ends_no_stage() -> None:
    """Kubeflow's launcher reads a task's output and ends at once at SIGTERM; what was done has still to be saved."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", buffering=1) as pipe:
        progress = LineProgress("rl:", pipe)
        progress.log("step 1")
        os.close(reading)
        progress.log("saving")
        progress.start("the next piece", 3)
        progress.log("saved")
        assert progress._nobody_reads


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", "a?[2Jb"),
        ("a\x9b2Jb", "a?2Jb"),
        ("two\r\nlines\tand\u3000blanks", "two\nlines\tand\u3000blanks"),
        ("over\rwritten", "over?written"),
        ("turned \u202eround\u2066", "turned ?round?"),
        ("half \ud83d", "half ?"),
        (
            "joined \u0645\u06cc\u200c\u062e \U0001f468\u200d\U0001f469",
            "joined \u0645\u06cc\u200c\u062e \U0001f468\u200d\U0001f469",
        ),
    ],
)
def test_a_model_gives_the_terminal_no_commands(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_a_line_of_the_log_gives_it_none_either(capsys) -> None:
    LineProgress("[1/2] vote:").log("answered '\x1b]0;title\x07'")
    assert "\x1b" not in capsys.readouterr().out
