"""Keep credentials out of everything a person or a file gets to see: error lines, logs, tracebacks.

What is blanked: values of environment variables named like a secret, values told to `remember_secret` (keys that a
library found in a profile or a mounted file), and whatever is shaped like a credential, known or not.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import traceback
from contextlib import suppress
from types import TracebackType

BLANK = "[redacted]"
_SHORTEST = 8
"""Values below this length are not blanked: they would be found inside ordinary words."""
_SECRET_NAME = re.compile(r"(SECRET|PASSWORD|PASSWD|TOKEN|API_KEY|ACCESS_KEY|ACCESS_KEY_ID|PRIVATE_KEY)$")
CREDENTIAL_SHAPES = (
    # Query of a presigned address, version 4 and 2.
    (
        re.compile(r"(?i)\b(X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature)=[^&\s\"'<>]+"),
        r"\1=",
    ),
    (re.compile(r"(?i)\b(authorization[\"']?\s*[:=]\s*[\"']?(?:Bearer|Basic|AWS4-HMAC-SHA256)\s+)[^\"'\r\n]+"), r"\1"),
    (re.compile(r"(?i)\b(Bearer\s+)[A-Za-z0-9._~+/-]{8,}=*"), r"\1"),
    (re.compile(r"(?i)\b(x-amz-security-token[\"']?\s*[:=]\s*[\"']?)[^\s\"',}]+"), r"\1"),
    (re.compile(r"(://)[^/\s:@\"']+:[^/\s@\"']+(?=@)"), r"\1"),
    (re.compile(r"\b()(?:AKIA|ASIA)[A-Z0-9]{16}\b"), r"\1"),
    (re.compile(r"\b()hf_[A-Za-z0-9]{16,}\b"), r"\1"),
    (re.compile(r"\b()sk-[A-Za-z0-9_-]{20,}"), r"\1"),
)
_remembered: set[str] = set()


def remember_secret(*values: str | None) -> None:
    """Blank these values from now on, wherever `redact` is used."""
    _remembered.update(value for value in values if value and len(value) >= _SHORTEST)


def redact(text: str) -> str:
    """The text without credentials."""
    for secret in sorted(_known_secrets(), key=len, reverse=True):
        text = text.replace(secret, BLANK)
    for shape, kept in CREDENTIAL_SHAPES:
        text = shape.sub(kept + BLANK, text)
    return text


def install_redaction() -> None:
    """Redact what the logging module writes and every traceback of this process; called once by the command."""
    made = logging.getLogRecordFactory()

    def record(*arguments: object, **more: object) -> logging.LogRecord:
        line = made(*arguments, **more)
        line.msg, line.args = redact(line.getMessage()), ()
        if line.exc_info and line.exc_info[0] is not None:
            line.exc_text = redact("".join(traceback.format_exception(*line.exc_info)).rstrip())
            line.exc_info = None
        return line

    logging.setLogRecordFactory(record)
    sys.excepthook = print_traceback
    threading.excepthook = lambda bug: print_traceback(bug.exc_type, bug.exc_value, bug.exc_traceback)


def print_traceback(kind: type[BaseException], bug: BaseException | None, trace: TracebackType | None) -> None:
    """Write the traceback of a bug to standard error, as Python itself would, but for credentials."""
    with suppress(BrokenPipeError):  # the exit code says that there was one
        sys.stderr.write(redact("".join(traceback.format_exception(kind, bug, trace))))


def _known_secrets() -> set[str]:
    named = {value for name, value in os.environ.items() if _SECRET_NAME.search(name.upper())}
    return _remembered | {value for value in named if len(value) >= _SHORTEST and "\n" not in value}
