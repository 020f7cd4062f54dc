"""What people are told to type when an optional part is missing: it must work where they are."""

import json
import shlex

import pytest

from lorapar import extras


class Installed:
    def __init__(self, origin: object) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.origin is None else json.dumps(self.origin)


@pytest.fixture
def told(monkeypatch):
    """The requirement that pip is given, where the package was installed from there."""

    def of(origin: object) -> str:
        monkeypatch.setattr(extras, "distribution", lambda name: Installed(origin))
        pip, install, requirement = shlex.split(extras.pip_install("train,eval"))
        assert (pip, install) == ("pip", "install")
        return requirement

    return of


@pytest.mark.parametrize("editable", [{"editable": True}, {}])
def test_from_a_checkout_it_is_that_checkout(told, tmp_path, editable):
    folder = tmp_path / "my checkout"
    folder.mkdir()
    assert told({"url": folder.as_uri(), "dir_info": editable}) == f"{folder}[train,eval]"


def test_from_a_wheel_it_is_that_wheel_as_long_as_it_is_there(told, tmp_path):
    wheel = tmp_path / "lorapar-0.1.0-py3-none-any.whl"
    origin = {"url": wheel.as_uri(), "archive_info": {}}
    assert told(origin) == "lorapar[train,eval]"
    wheel.touch()
    assert told(origin) == f"{wheel}[train,eval]"


def test_from_a_repository_it_is_the_same_commit(told):
    origin = {"url": "https://example.com/lorapar.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}}
    assert told(origin) == "lorapar[train,eval] @ git+https://example.com/lorapar.git@12ab"


def test_from_an_address_it_is_that_address_and_from_an_index_the_name(told):
    wheel = "https://example.com/lorapar-0.1.0-py3-none-any.whl"
    assert told({"url": wheel, "archive_info": {}}) == f"lorapar[train,eval] @ {wheel}"
    assert told(None) == "lorapar[train,eval]"
