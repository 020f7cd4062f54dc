#!/usr/bin/env bash
# math-verify 0.9.0, latex2sympy2-extended 1.11.0, antlr4-python3-runtime 4.13.2.
#
# Guess: where the right answer is 5, an equation counts if it names 5 (x = 5), and not if it still has to be solved (2x = 5).
# Seen: verify() takes the right side of any equation where the other answer is none, so 2x = 5, x^2 = 5 and x + y = 5 all
#   equal 5. Two equations are compared as such: 2x = 10 is not x = 5. The order counts: with the equation as right answer and
#   5 as the given one, verify() says no. Default settings throughout.
# What to do: refuse an equation in a multiple or a power of a variable before asking, where the right answer is none.
#
# Prints each pair with its verdict, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "math-verify-unsolved-equations.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
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
    ("5", "x = 5"): True,
    ("5", "2x = 5"): True,
    ("5", "x^2 = 5"): True,
    ("5", "x + y = 5"): True,
    ("2x = 5", "5"): False,
    ("x = 5", "2x = 10"): False,
}
seen = {pair: verify(parse(f"${pair[0]}$"), parse(f"${pair[1]}$")) for pair in stated}
for (right, answer), verdict in seen.items():
    print(f"right answer {right}, answer {answer}: {'equal' if verdict else 'not equal'}")
sys.exit(0 if seen == stated else 1)
PYTHON
