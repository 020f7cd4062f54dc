"""Post the closing summary to a given address as `{"text": ..., "outcome": ...}`, which chat services accept."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from lorapar.errors import BadInputError, UnreachableError
from lorapar.kubeflow.summary import RunSummary
from lorapar.network import heed_proxies, network_cause, proxy_refusal, trust_authorities

TIMEOUT_SECONDS = 20.0


def post_summary(address: str, text: str, summary: RunSummary) -> None:
    """Post once; raises UnreachableError naming the host only, because such addresses often hold a token."""
    if not address.startswith(("https://", "http://")):
        raise BadInputError("webhook: expected an address that begins with https:// or http://")
    host = address.split("/")[2].rpartition("@")[2]
    body = json.dumps({"text": text, "outcome": summary.outcome()}, allow_nan=False).encode()
    trust_authorities()
    heed_proxies(address, socks=None)
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"}, method="POST")  # noqa: S310
    try:
        # Not urlopen, which keeps the proxies and certificate authorities of its first call.
        with urllib.request.build_opener().open(request, timeout=TIMEOUT_SECONDS):
            return
    except (urllib.error.URLError, OSError) as error:
        refused = proxy_refusal(error.code, address) if isinstance(error, urllib.error.HTTPError) else None
        cause = refused or network_cause(error, address)
        reason = cause if cause is not None else getattr(error, "reason", error)
        raise UnreachableError(
            f"webhook: {host} did not take the summary: {reason}; the report is in the store"
        ) from None
