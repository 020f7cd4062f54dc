"""What a schedule may say, and what is refused before it is sent."""

import pytest

from lorapar.errors import BadInputError
from lorapar.kubeflow.checks import check_cron


@pytest.mark.parametrize(
    "cron",
    [
        "0 0 3 * * *",
        "*/15 0-30/10 1,13 ? jan-MAR mon",
        "59 59 23 31 12 6",
        "0 0 0 1/5 * sun,fri",
        "@daily",
        "@every 1h30m",
    ],
)
def test_what_kubeflow_takes(cron) -> None:
    check_cron(cron)


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 0 25 * * *", "hour '25': expected 0 to 23"),
        ("60 0 0 * * *", "second '60'"),
        ("0 0 0 0 * *", "day of month '0'"),
        ("0 0 0 * 13 *", "month '13': expected 1 to 12 or jan to dec"),
        ("0 0 0 * * 7", "day of week '7'"),
        ("0 30-10 0 * * *", "minute '30-10'"),
        ("0 */0 0 * * *", "minute"),
        ("0 0 3 * * mon,", "day of week 'mon,'"),
        ("0 3 * * *", "expected six fields"),
        ("@nightly", "no such word"),
    ],
)
def test_what_is_refused_names_the_field(cron, message) -> None:
    with pytest.raises(BadInputError) as error:
        check_cron(cron)
    assert message in str(error.value)
