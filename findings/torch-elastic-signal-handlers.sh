#!/usr/bin/env bash
# torch 2.13.0, on the CPU, Linux.
#
# Guess: torch.distributed.launcher's elastic_launch, called from a program of your own, leaves the program's signal handlers as
#   they were once it has returned.
# Seen: SIGINT, SIGTERM and SIGHUP keep torch's handler after a successful return. The next Ctrl-C, hours later and in code that
#   has nothing to do with processes, raises torch's SignalException and no KeyboardInterrupt.
# What to do: note signal.getsignal() of the three before the call, and set them again after it.
#
# Prints the handlers before and after, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "torch-elastic-signal-handlers.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5
cd "$folder"
cat > launch.py <<'PYTHON'
import signal
import sys

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def work():
    return "done"


def name_of(handler):
    return getattr(handler, "__name__", str(handler))


if __name__ == "__main__":
    before = [signal.getsignal(number) for number in SIGNALS]
    settings = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=1, rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id="one"
    )
    print("result:", elastic_launch(settings, work)()[0])
    after = [signal.getsignal(number) for number in SIGNALS]
    for number, old, new in zip(SIGNALS, before, after, strict=True):
        print(f"{number.name}: {name_of(old)} before, {name_of(new)} after")
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raised = "KeyboardInterrupt"
    except Exception as error:
        raised = type(error).__name__
    print("Ctrl-C now raises", raised)
    sys.exit(0 if raised == "SignalException" and all(old != new for old, new in zip(before, after, strict=True)) else 1)
PYTHON
venv/bin/python launch.py
