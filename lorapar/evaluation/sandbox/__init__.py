"""The only place where generated code runs: a confined process of its own, with limits, watched from outside.

    Sandbox (in the stage) --jobs, JSON lines--> warden (own process, empty environment) --fork, confine, exec--> code

`docs/sandbox.md` lists the layers, what they are worth, and what they do NOT protect from. Apart from `client`, the
modules here use the standard library only (and pyseccomp), because the warden starts from them.
"""

from lorapar.evaluation.sandbox.client import Sandbox, SandboxPool
from lorapar.evaluation.sandbox.limits import Limits, Outcome
from lorapar.evaluation.sandbox.tested import CodeUnderTest

__all__ = ["CodeUnderTest", "Limits", "Outcome", "Sandbox", "SandboxPool"]
