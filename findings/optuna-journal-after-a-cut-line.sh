#!/usr/bin/env bash
# optuna 5.0.0 on Python 3.11.
#
# Guess: a study in a JournalFileBackend whose last line was cut off, as by a kill or a full disk, loses that line at most: it is
#   opened without an error, with the trials before.
# Seen: it is opened so, but the next write continues the cut line. From then on the file cannot be read, by this process or any
#   other, and all of its trials are out of reach. (Output: opened after the cut: 1 trial; next trial: JSONDecodeError; opened
#   again: JSONDecodeError.)
# What to do: remove what stands behind the last line break before the file is opened.
#
# Prints what becomes of such a file, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "optuna-journal-after-a-cut-line.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0
cd "$folder"
cat > journal.py <<'PYTHON'
import sys
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

optuna.logging.set_verbosity(optuna.logging.ERROR)
file = Path("journal.log")


def opened():
    storage = JournalStorage(JournalFileBackend(str(file)))
    return optuna.create_study(study_name="study", storage=storage, load_if_exists=True)


def outcome(act):
    try:
        return act()
    except Exception as error:
        return type(error).__name__


study = opened()
study.tell(study.ask(), 1.0)
file.write_bytes(file.read_bytes()[:-20])
study = opened()
count = len(study.trials)
following = outcome(lambda: study.tell(study.ask(), 2.0) and "told")
again = outcome(lambda: f"{len(opened().trials)} trials")
print(f"opened after the cut: {count} trial; next trial: {following}; opened again: {again}")
sys.exit((count, following, again) != (1, "JSONDecodeError", "JSONDecodeError"))
PYTHON
venv/bin/python journal.py
