"""What endpoints and gateways say went wrong, in the shapes they say it in."""

from __future__ import annotations

import json

import pytest

from lorapar.voting.endpoint_failures import failure_of, retry_after_seconds

NOW = 1_800_000_000.0


def failure(status, value, **headers):
    text = value if isinstance(value, str) else json.dumps(value)
    named = {name.replace("_", "-"): found for name, found in headers.items()}
    return failure_of(status, named, text, None if isinstance(value, str) else value, NOW)


@pytest.mark.parametrize(
    ("status", "value", "code", "words"),
    [
        (200, {"error": {"message": "slow down", "code": 503}}, 503, "slow down"),
        (200, {"error": {"message": "slow down", "code": "429"}}, 429, "slow down"),
        (200, {"error": {"message": "no", "type": "invalid_request_error", "code": None}}, 400, "no"),
        (200, {"error": {"message": "Overloaded", "type": "overloaded_error"}, "type": "error"}, 429, "Overloaded"),
        (200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}, 404, "Unexpected endpoint"),
        (200, {"error": {"message": "Unsupported parameter: max_tokens"}}, 400, "Unsupported parameter"),
        (200, {"error": "rate limit reached", "choices": None}, 429, "rate limit reached"),
        (200, {"object": "error", "message": "bad model", "code": 404}, 404, "bad model"),
        (200, {"choices": [{"error": {"code": 502, "message": "Provider failed"}}]}, 502, "Provider failed"),
        (200, {"choices": [], "error": {"message": "gone"}}, 520, "gone"),
        (200, {"success": False, "errors": [{"code": 7009, "message": "Upstream is busy"}]}, 429, "Upstream is busy"),
        (200, {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}, "choices": None}, 429, "rate limit"),
        (200, {"code": "Throttling.RateQuota", "message": "Requests throttled"}, 429, "Requests throttled"),
        (400, [{"error": {"code": 400, "message": "Unknown name", "status": "INVALID_ARGUMENT"}}], 400, "Unknown name"),
        (500, {"error": {"code": 400, "message": "wrapped"}}, 400, "wrapped"),
        (500, {"error": {"type": "server_error", "message": "oops"}}, 503, "oops"),
        (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, 402, "pay"),
        (429, {"error": {"type": "invalid_request_error", "message": "wait"}}, 429, "wait"),
        (422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}, 422, "Extra inputs"),
        (401, {"title": "Access denied", "status": 401}, 401, "Access denied"),
        (502, "<html><head><title>502 Bad\n Gateway</title></head></html>", 502, "an HTML page ('502 Bad Gateway')"),
        (503, "", 503, "HTTP 503"),
        (400, {"error": {"message": "Provider returned error", "metadata": {"raw": "no such"}}}, 400, "no such"),
        (200, {"statusCode": 401, "message": "Access to this API is closed"}, 401, "Access to this API"),
        (200, {"code": 429, "message": "Slowly, please", "data": None}, 429, "Slowly, please"),
        (200, {"error": True, "message": "rate limit reached"}, 429, "HTTP 200 (429 inside) rate limit reached"),
        (200, {"choices": [{"message": {"content": "", "error": {"code": 502, "message": "gone"}}}]}, 502, "gone"),
        (
            200,
            {"fault": {"faultstring": "No more calls", "detail": {"errorcode": "policies.ratelimit.QuotaViolation"}}},
            429,
            "No more calls",
        ),
        (
            400,
            {"title": "Validation failed", "errors": {"max_tokens": ["unknown"]}},
            400,
            "failed: max_tokens: unknown",
        ),
        (
            403,
            {"error": {"errors": [{"reason": "x"}], "message": "User rate limit exceeded", "code": 403}},
            429,
            "User",
        ),
        (403, {"message": "no right to use this model"}, 403, "no right"),
        (403, {"error": {"code": "TooManyRequests", "message": "Slowly"}}, 429, "Slowly"),
        (403, {"message": "Your plan does not include this model; concurrency tier 1 only"}, 403, "Your plan"),
        (403, {"message": "organisation 'busybee' may not use this model"}, 403, "busybee"),
        (403, {"message": "you have no capacity to call this model"}, 403, "no capacity"),
        (498, {"error": {"type": "capacity_exceeded", "message": "Flex is full"}}, 429, "Flex is full"),
    ],
    ids=str,
)
def test_the_code_and_the_words_are_found_wherever_they_are(status, value, code, words) -> None:
    found = failure(status, value)
    assert found is not None
    assert found.status == code
    assert found.words.startswith(f"HTTP {status}")
    assert words in found.words
    assert "\n" not in found.words


@pytest.mark.parametrize(
    "value",
    [
        {"choices": [{"message": {"content": "x"}}], "error": None},
        {"data": [{"id": "m"}]},
        {"tokens": [1, 2], "count": 2},
        {"object": "something else"},
        {"prompt": "text"},
        {"choices": [{"message": {"content": "yes", "error": {"code": 0}}}]},
    ],
    ids=str,
)
def test_an_answer_without_an_error_is_none(value) -> None:
    assert failure(200, value) is None


def test_the_field_that_is_refused_is_named() -> None:
    def named(value):
        return failure(400, value).parameter

    assert named({"error": {"message": "no", "param": "max_tokens"}}) == "max_tokens"
    assert named({"error": {"message": "no", "param": "response_format.json_schema"}}) == "response_format"
    assert named({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]}) == "seed"
    assert named({"error": {"message": "no"}}) is None


@pytest.mark.parametrize(
    ("header", "now", "seconds"),
    [
        ("2.5", 0.0, 2.5),
        ("17s", 0.0, 17.0),
        ("250ms", 0.0, 0.25),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 20.0, 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 20.0, 0.0),
        (str(int(NOW) + 9), NOW, 9.0),
        ("soon", 0.0, None),
        ("nan", 0.0, None),
        ("", 0.0, None),
        (None, 0.0, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_has_a_unit(header, now, seconds) -> None:
    assert retry_after_seconds(header, now) == seconds


def test_how_long_to_wait_is_in_a_header_or_in_the_error() -> None:
    busy = {"error": {"message": "busy", "code": 429}}
    assert failure(429, busy, retry_after_ms="1500", retry_after="2").wait_seconds == 1.5
    assert failure(429, busy, retry_after="2").wait_seconds == 2.0
    assert failure(429, busy).wait_seconds is None
    delayed = {"error": {**busy["error"], "details": [{"@type": "RetryInfo", "retryDelay": "17s"}]}}
    assert failure(429, [delayed]).wait_seconds == 17.0


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Rate limit reached on tokens per min. Please try again in 2.5s.", 2.5),
        ("Please try again in 1m30s. Visit our page", 90.0),
        ("Please try again in 250ms.", 0.25),
        ("Please retry after 20 seconds.", 20.0),
        ("Try again in 2h5m0s", 7500.0),
        ("Try again in a moment", None),
        ("Please retry after some minutes", None),
        ("try again in 3 months", None),
    ],
)
def test_how_long_to_wait_may_stand_in_the_words_alone(words, seconds) -> None:
    assert failure(429, {"error": {"message": words}}).wait_seconds == seconds


def test_a_filter_is_distinguished_from_other_refusals() -> None:
    message = "The response was filtered due to the prompt triggering the content management policy."
    filtered = failure(400, {"error": {"code": "content_filter", "message": message}})
    assert filtered.filtered
    assert "leave the row out" in filtered.advice
    assert not failure(400, {"error": {"message": "unknown field"}}).filtered
