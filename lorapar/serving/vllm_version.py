"""Which vLLM may load adapters while it answers: in earlier ones a request could get another adapter's weights.

vLLM remembered which adapter each token of a batch belongs to, and did not look again where loading an adapter gave a
slot to another one: requests that were being answered went on with the weights of whoever got their slot
(vllm-project/vllm issue 47724). The fix, pull request 47725, is in 0.26.0 and not in 0.25.1.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, packages_distributions, version

from packaging.version import InvalidVersion, Version

from lorapar.errors import BadInputError

FIRST_SAFE = "0.26.0"
_UNNUMBERED = Version("0.2")
"""vLLM built from a checkout without tags calls itself 0.1.dev and a commit."""


def installed_vllm() -> str | None:
    """The version of vLLM in this environment, whatever its package is called; None where there is none."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        names = packages_distributions().get("vllm")
        return version(names[0]) if names else None


def refuse_unsafe(found: str | None) -> None:
    """Raise BadInputError for a vLLM that could answer a request with another adapter's weights.

    A build without a release's number is let through: what it holds cannot be told by number.
    """
    try:
        number = Version(found or "")
    except InvalidVersion:
        return
    if _UNNUMBERED <= number < Version(FIRST_SAFE):
        raise BadInputError(
            f"vLLM {found} is here: before {FIRST_SAFE}, loading an adapter could make it answer a running request "
            f"with another adapter's weights (vLLM issue 47724); install vLLM {FIRST_SAFE} or later"
        )
