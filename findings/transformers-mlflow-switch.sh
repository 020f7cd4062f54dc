#!/usr/bin/env bash
# transformers 5.23.0 with mlflow-skinny 3.17.2 on Python 3.11, without torch.
#
# Guess: DISABLE_MLFLOW_INTEGRATION=TRUE keeps a Trainer from reporting to MLflow by itself. A callback that somebody makes and
#   hands over works as before, because mlflow is installed.
# Seen: the variable answers the question whether mlflow is installed. MLflowCallback() then raises RuntimeError and asks for
#   `pip install mlflow`, and its __del__ a second error. (Output: without the variable: made; with it: RuntimeError, installed: True.)
# What to do: switch off reporting by report_to="none". To save the import that other packages do where transformers finds mlflow
#   (trl 1.16.0, extras/profiling.py), hide mlflow while they are imported and not for the whole process.
#
# Prints what becomes of a callback without and with the variable, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "transformers-mlflow-switch.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 mlflow-skinny==3.17.2
cd "$folder"
cat > callback.py <<'PYTHON'
import importlib.util
import os
import sys

from transformers.integrations import MLflowCallback


def made() -> str:
    try:
        MLflowCallback()
    except RuntimeError:
        return "RuntimeError"
    return "made"


sys.unraisablehook = lambda _: None
without = made()
os.environ["DISABLE_MLFLOW_INTEGRATION"] = "TRUE"
switched, installed = made(), importlib.util.find_spec("mlflow") is not None
print(f"without the variable: {without}; with it: {switched}, installed: {installed}")
sys.exit(0 if (without, switched, installed) == ("made", "RuntimeError", True) else 1)
PYTHON
env -u DISABLE_MLFLOW_INTEGRATION HOME="$folder" "$folder/venv/bin/python" callback.py 2>/dev/null | tail -n 1
