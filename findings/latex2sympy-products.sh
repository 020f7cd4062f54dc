#!/usr/bin/env bash
# latex2sympy2-extended 1.11.0, math-verify 0.9.0, antlr4-python3-runtime 4.13.2.
#
# Guess: 2(3) and (2)(3) in LaTeX are the product 6, as 3(x+1) is 3*(x+1) for the same reader.
# Seen: both are read as 5, the sum: a number before a number in brackets counts as a mixed number. So math_verify says that
#   the answer $(2)(3)$ equals $5$ and does not equal $6$, with its default settings. \sqrt 2, which TeX takes as \sqrt{2},
#   raises.
# What to do: write products out (2 \cdot 3) before comparing, and put braces around the argument of \sqrt.
#
# Prints what each text comes to, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "latex2sympy-products.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet latex2sympy2-extended==1.11.0 math-verify==0.9.0 antlr4-python3-runtime==4.13.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

from latex2sympy2_extended import latex2sympy
from math_verify import parse, verify


def read(text):
    try:
        return str(latex2sympy(text))
    except Exception as error:
        return f"raises {type(error).__name__}"


texts = ("2(3)", "(2)(3)", r"2 \cdot 3", "3(x+1)", r"\sqrt{2}", r"\sqrt 2")
seen = {text: read(text) for text in texts}
for text, value in seen.items():
    print(f"{text}: {value}")
equal = {gold: verify(parse(f"${gold}$"), parse("$(2)(3)$")) for gold in ("5", "6")}
print("(2)(3) equals 5:", equal["5"], "- equals 6:", equal["6"])
as_stated = seen["2(3)"] == seen["(2)(3)"] == "5" and seen["3(x+1)"] == "3*(x + 1)" and seen[r"\sqrt 2"].startswith("raises")
sys.exit(0 if as_stated and equal == {"5": True, "6": False} else 1)
PYTHON
