#!/usr/bin/env bash
# accelerate 1.15.0 with torch 2.13.0, on the CPU; no second process is needed to see it.
#
# Guess: after skip_first_batches, set_epoch tells the sampler its epoch as it does before, so that a training that goes on in the
#   middle of an epoch sees the rows of that epoch that it had not seen yet. This is how transformers' Trainer resumes.
# Seen: true for a loader prepared for one process. For one of several, the shard lies between the skipping sampler and the
#   sampler, one level deeper than set_epoch looks: the sampler keeps epoch 0, so rows come in the order of the first epoch, some
#   of them a second time and others not at all. Nothing is said.
# What to do: walk down `batch_sampler` until there is none, and call set_epoch on the `sampler` there.
#
# Prints which rows follow after a resumed epoch, for one process and for two, and ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "accelerate-resumed-epoch.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

import torch
from accelerate import skip_first_batches
from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader
from torch.utils.data import DataLoader


def loader(processes, process):
    rows = torch.arange(8)
    sampler = SeedableRandomSampler(rows, data_seed=0)
    one = DataLoader(rows, batch_size=1, sampler=sampler)
    return prepare_data_loader(one, num_processes=processes, process_index=process, put_on_device=False)


def rows_of(epoch, processes, skip):
    """Rows of an epoch in order, of all processes together."""
    parts = []
    for process in range(processes):
        prepared = loader(processes, process)
        if skip:
            prepared = skip_first_batches(prepared, skip)
        prepared.set_epoch(epoch)
        parts.append([int(row) for batch in prepared for row in batch])
    return [row for together in zip(*parts) for row in together]


same = {}
for processes in (1, 2):
    whole, rest = rows_of(1, processes, 0), rows_of(1, processes, 4 // processes)
    same[processes] = rest == whole[4:]
    print(f"{processes} process(es): rows 5 to 8 of the second epoch {whole[4:]}, after skipping 4 rows {rest}")
sys.exit(0 if same == {1: True, 2: False} else 1)
PYTHON
