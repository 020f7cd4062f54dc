"""What a server keeps of its traffic: redacted by rules, written to the store by days, read, deleted and pruned.

Importable without pyarrow and regex: they are imported where Parquet is read or written and where rules are compiled.
docs/flywheel.md says what is kept, where and how long.
"""

from lorapar.capture.parts import Capture, captures, known_capture
from lorapar.capture.records import request_digest
from lorapar.capture.rules import Rules
from lorapar.capture.writer import CaptureWriter

__all__ = ["Capture", "CaptureWriter", "Rules", "captures", "known_capture", "request_digest"]
