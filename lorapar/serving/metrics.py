"""Prometheus metrics of the middleware; vLLM's own /metrics shows them, because they are in the process's registry."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "lorapar_serving_requests",
    "Requests answered by an adapter; alias is empty where a client named the version itself.",
    ["adapter", "version", "alias", "status"],
)
ALIAS_VERSION = Gauge(
    "lorapar_serving_alias_version", "Version that an alias means on this replica.", ["adapter", "alias"]
)
GATE_BETTER = Gauge(
    "lorapar_serving_gate_better",
    "Latest verdict of the gate on the version that an alias means: 1 better, 0 not better.",
    ["adapter", "alias", "version"],
)
CANARY_SHARE = Gauge("lorapar_serving_canary_share_percent", "Share that the canary gets on this replica.", ["adapter"])
CANARY_RETURNS = Counter("lorapar_serving_canary_returns", "Canaries that a guard of this replica ended.", ["adapter"])
LOAD_FAILURES = Counter("lorapar_serving_load_failures", "Versions that could not be loaded.", ["adapter"])
LOAD_SECONDS = Histogram("lorapar_serving_load_seconds", "Download, check and load of a version.", ["adapter"])
SYNC_FAILURES = Counter(
    "lorapar_serving_sync_failures", "Looks at an alias that the registry did not answer.", ["adapter"]
)
LAST_SYNC = Gauge(
    "lorapar_serving_last_sync_timestamp_seconds", "When an adapter's aliases were last read.", ["adapter"]
)
ENGINE_ADAPTERS = Gauge(
    "lorapar_serving_engine_adapters",
    "Adapters whose weights the engine held after the latest load or unload; their slots are --max-loras.",
)
CANARY_REWARD = Gauge(
    "lorapar_serving_canary_reward",
    "Mean reward of a sample of answers while a canary runs and LORAPAR_SERVING_CANARY_REWARD is set.",
    ["adapter", "side"],
)
CAPTURED = Counter(
    "lorapar_serving_captured",
    "Requests of the captured share by what became of them: kept once written; all others are not kept.",
    ["capture", "outcome"],
)
CAPTURE_REDACTIONS = Counter(
    "lorapar_serving_capture_redactions", "What rules of redaction found in captured requests.", ["capture", "rule"]
)
