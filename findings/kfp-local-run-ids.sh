#!/usr/bin/env bash
# kfp 2.17.0, its local runner, on Python 3.11.
#
# Guess: every run of a pipeline has an id of its own (dsl.PIPELINE_JOB_ID_PLACEHOLDER), on a cluster and by kfp.local alike.
# Seen: kfp.local draws it from Python's global random numbers (eight digits, kfp/local/placeholder_utils.py). A program
#   that seeds these, as every training library does, gives two runs one id, and what was written under the first is
#   taken for the second's. (Output: two runs after random.seed(0): 51706749 51706749, one after random.seed(): another.)
# What to do: call random.seed() before each run by kfp.local.
#
# Prints the ids of two runs that begin with the same seed and of one that does not, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "kfp-local-run-ids.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet kfp==2.17.0
cd "$folder"
cat > pipeline.py <<'PYTHON'
import random
import sys

from kfp import dsl, local


@dsl.component
def said(run: str) -> str:
    return run


@dsl.pipeline
def one() -> str:
    return said(run=dsl.PIPELINE_JOB_ID_PLACEHOLDER).output


def run_id(seed):
    random.seed(seed)
    return one().output


local.init(runner=local.SubprocessRunner(use_venv=False))
first, second, other = run_id(0), run_id(0), run_id(None)
print("two runs after random.seed(0):", first, second, "one after random.seed():", other)
sys.exit(0 if first == second and first.isdigit() and other != first else 1)
PYTHON
"$folder/venv/bin/python" pipeline.py 2>&1 | tail -n 1
