#!/usr/bin/env bash
# optuna 5.0.0 on Python 3.11.
#
# Guess: with SuccessiveHalvingPruner(min_resource=1, reduction_factor=3), trials that report at steps 1, 2 and 3 are thinned
#   out at each of them.
# Seen: a step is an amount of resource, not the number of a look: rung k decides at the first step of 3**k or more, and the
#   values reported between rungs count nowhere. Nothing is pruned at step 2. (Output, trials that reported at each look, of 60:
#   steps 1, 2, 3: 60, 19, 19; steps 1, 3, 9: 60, 23, 7.)
# What to do: report at reduction_factor**look.
#
# Prints how many of 60 trials came to each look, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "optuna-halving-counts-resources.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0
cd "$folder"
cat > looks.py <<'PYTHON'
import random
import sys

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def came(steps):
    """How many trials of random values reported at each of these steps."""
    random.seed(0)
    study = optuna.create_study(pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3))
    found = [0] * len(steps)
    for _ in range(60):
        trial = study.ask()
        for look, step in enumerate(steps):
            found[look] += 1
            trial.report(random.random(), step)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, random.random())
    return found


numbers, powers = came((1, 2, 3)), came((1, 3, 9))
print(f"steps 1, 2, 3: {', '.join(map(str, numbers))}; steps 1, 3, 9: {', '.join(map(str, powers))}")
sys.exit(not (numbers[1] == numbers[2] < 60 and powers[2] < powers[1] < 60))
PYTHON
venv/bin/python looks.py
