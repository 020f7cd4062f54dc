"""The process that compares two expressions with math-verify; it starts nothing else and knows no secrets.

Arguments: the CPU seconds of one comparison, the bytes of memory. It reads `[answer, reference]` and writes true, false
or null (no verdict), one JSON value a line; its first line says that it is ready.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from typing import Any

_CLOSER_THAN_DIGITS = 12
"""Decimals are what they say: 0.333333 is not 1/3, but what floating point makes of 0.1 + 0.2 is 0.3."""
_PRECISION_DIGITS = 30


def main() -> None:
    """Compare until the input ends."""
    cpu_seconds, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library prints is no verdict
    import math_verify
    from latex2sympy2_extended import latex2sympy  # noqa: F401 - imported before time is kept

    # No handler: the kernel ends the process, wherever it is.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    print("ready" if math_verify else "", file=out, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        verdict = compare(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        print(json.dumps(verdict), file=out, flush=True)


def compare(answer: str, reference: str) -> bool | None:
    """Whether two expressions in LaTeX have one value; False where one is none, None where memory ran out."""
    from math_verify import verify

    try:
        gold, given = _parsed(reference), _parsed(answer)
        if gold is None or given is None:
            return False
        return bool(
            verify(
                gold,
                given,
                float_rounding=_CLOSER_THAN_DIGITS,
                numeric_precision=_PRECISION_DIGITS,
                timeout_seconds=None,
                raise_on_error=True,
            )
        )
    except (MemoryError, RecursionError):
        return None
    except Exception:  # the libraries raise errors of every kind for what they cannot read
        return False


def _parsed(text: str) -> Any:
    """The expression; None where there is none, or it is not finite."""
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from sympy import nan, zoo

    # Mixed numbers are read before; with the library's reading of them 2(3) would be 5.
    found = latex2sympy(
        text, conversion_config=ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
    )
    return None if found is None or found in (nan, zoo) else found
