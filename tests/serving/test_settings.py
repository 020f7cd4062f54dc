"""What a server's environment may say."""

from __future__ import annotations

import pytest

from lorapar.errors import BadInputError
from lorapar.registry import Reference
from lorapar.serving.settings import ServingSettings, settings_from

ADDRESS = {"LORAPAR_REGISTRY": "s3://bucket/registry"}


def test_environment_and_settings_say_the_same() -> None:
    settings = ServingSettings(registry="s3://bucket/registry", adapters="task, other@candidate", poll_seconds=2.5)
    assert settings_from(settings.environment()) == settings
    assert settings.references == (Reference("task", alias="production"), Reference("other", alias="candidate"))
    assert settings.names == {"task", "other"}


def test_variables_of_others_do_not_matter() -> None:
    assert settings_from({**ADDRESS, "VLLM_X": "1", "LORAPAR_CACHE": "/x"}).registry == "s3://bucket/registry"


def test_what_kubernetes_tells_of_a_service_of_that_name_does_not_matter() -> None:
    links = {
        "LORAPAR_SERVING_SERVICE_HOST": "10.0.0.7",
        "LORAPAR_SERVING_SERVICE_PORT": "8000",
        "LORAPAR_SERVING_SERVICE_PORT_HTTP": "8000",
        "LORAPAR_SERVING_PORT": "tcp://10.0.0.7:8000",
        "LORAPAR_SERVING_PORT_8000_TCP_ADDR": "10.0.0.7",
    }
    assert settings_from({**ADDRESS, **links}) == settings_from(ADDRESS)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "LORAPAR_REGISTRY is not set"),
        (
            {**ADDRESS, "LORAPAR_SERVING_POLL": "3"},
            r"LORAPAR_SERVING_POLL is not a setting of serving .did you mean 'LORAPAR_SERVING_POLL_SECONDS'",
        ),
        ({**ADDRESS, "LORAPAR_SERVING_POLL_SECONDS": "often"}, "LORAPAR_SERVING_POLL_SECONDS"),
        ({**ADDRESS, "LORAPAR_SERVING_POLL_SECONDS": "0"}, "LORAPAR_SERVING_POLL_SECONDS"),
        ({**ADDRESS, "LORAPAR_SERVING_ADAPTERS": "task@3"}, "task@3 is a version"),
        ({**ADDRESS, "LORAPAR_SERVING_ADAPTERS": "../task"}, "is not the name of an adapter"),
    ],
)
def test_wrong_environment_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        settings_from(environment)
