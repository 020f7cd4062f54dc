"""SIGTERM ends work at once, or after the step under way where somebody finishes steps."""

import os
import signal

import pytest

from lorapar.errors import Terminated
from lorapar.stopping import finishing_steps, on_sigterm


@pytest.fixture(autouse=True)
def _handled():
    before = signal.signal(signal.SIGTERM, on_sigterm)
    yield
    signal.signal(signal.SIGTERM, before)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_at_once_where_nobody_finishes_steps():
    with pytest.raises(Terminated):
        terminate()


def test_the_step_is_finished_and_the_second_signal_ends_it_too():
    with finishing_steps() as stop:
        assert not stop.requested
        terminate()
        assert stop.requested
        with pytest.raises(Terminated):
            terminate()


def test_after_the_steps_it_is_at_once_again():
    with finishing_steps():
        pass
    with pytest.raises(Terminated):
        terminate()
