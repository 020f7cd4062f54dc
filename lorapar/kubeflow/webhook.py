"""Post the closing summary to an address a person gave: `{"text": ..., "outcome": ...}`, which chat services take."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from lorapar.errors import BadInputError, UnreachableError
from lorapar.kubeflow.summary import RunSummary

TIMEOUT_SECONDS = 20.0


def post_summary(address: str, text: str, summary: RunSummary) -> None:
    """Post once; raises UnreachableError naming the host only, because such addresses often hold a token."""
    if not address.startswith(("https://", "http://")):
        raise BadInputError("webhook: expected an address that begins with https:// or http://")
    host = address.split("/")[2].rpartition("@")[2]
    body = json.dumps({"text": text, "outcome": summary.outcome()}, allow_nan=False).encode()
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"}, method="POST")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            return
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise UnreachableError(
            f"webhook: {host} did not take the summary: {reason}; the report is in the store"
        ) from None
