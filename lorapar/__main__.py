"""`lorapar` and `python -m lorapar`: the command, from its first moment on.

Importing the commands takes the better part of a second. Ctrl-C meanwhile ends with the same line, with the
same exit code, as later on, and sees no traceback; so nothing but Python's own modules is imported outside of `main`.
"""

from __future__ import annotations

import atexit
import gc
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the command."""
    # What is imported stays: looking for garbage in it took a sixth of the start. `lorapar.cli` switches it on again.
    gc.disable()
    # Nor is there anything to find when it ends: after an import of torch Python would look for a second.
    atexit.register(gc.freeze)
    try:
        from lorapar.stopping import on_sigterm

        signal.signal(signal.SIGTERM, on_sigterm)
        from lorapar.cli import main as command

        command()
    except KeyboardInterrupt as stop:
        from lorapar.errors import stopped

        error = stopped(stop, "")
        print(f"lorapar: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
