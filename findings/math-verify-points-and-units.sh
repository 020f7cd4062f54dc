#!/usr/bin/env bash
# math-verify 0.9.0, latex2sympy2-extended 1.11.0, antlr4-python3-runtime 4.13.2.
#
# Guess: the point (1,2) and the set {1,2} are different answers, 5 cm is not 5 m, and 10:30, a time of day, is not 1/3.
# Seen: verify() takes (1,2) and \{1,2\} as equal, although (1,2) and (2,1) are not. Units are dropped before comparing, so 5 cm
#   equals 5 m and plain 5. $10:30$ is read as a quotient, 1/3. Default settings throughout.
# What to do: compare the texts first where the right answer is a point, carries a unit or is a time, and ask math-verify only
#   for the rest.
#
# Prints each pair with its verdict, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "math-verify-points-and-units.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet math-verify==0.9.0 latex2sympy2-extended==1.11.0 antlr4-python3-runtime==4.13.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

from math_verify import parse, verify

stated = {
    ("(1,2)", r"\{1,2\}"): True,
    ("(1,2)", "(2,1)"): False,
    ("5 cm", "5 m"): True,
    ("5", "5 cm"): True,
    ("1/3", "10:30"): True,
}
seen = {pair: verify(parse(f"${pair[0]}$"), parse(f"${pair[1]}$")) for pair in stated}
for (right, answer), verdict in seen.items():
    print(f"right answer {right}, answer {answer}: {'equal' if verdict else 'not equal'}")
sys.exit(0 if seen == stated else 1)
PYTHON
