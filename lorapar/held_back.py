"""Imported first by each process of the command, so that no library imports bitsandbytes before it is used.

PEFT would wherever it is installed: two seconds, a warning, and code of the hub where the package `kernels` is
installed. Loading a quantised base takes this back (`lorapar.basemodel.quantized`). A program that imports lorapar is
left alone.
"""

import sys

sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
