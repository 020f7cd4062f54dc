#!/usr/bin/env bash
# lm-eval 0.4.13.
#
# Guess: a group's `aggregation` decides how the figures of its tasks become one. The class says that besides "mean" a function
#   may be passed, and it accepts one.
# Seen: Group.aggregate never calls it. With `aggregation=max` the figure of tasks of 0.25 (10 rows) and 0.75 (30 rows) is their mean,
#   weighed by size: 0.625. Nothing is said.
# What to do: put the figures of a group together by mean only, and refuse a group that names another function.
#
# Prints the group's figure with "mean" and with max, and whether max was called; ends with 1 where that has changed.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "lm-eval-group-aggregation.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet lm-eval==0.4.13
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask
from lm_eval.config.group import AggMetricConfig

METRICS = {"low": {"acc,none": 0.25, "sample_len": 10}, "high": {"acc,none": 0.75, "sample_len": 30}}
called = []


def largest(values, *rest):
    called.append(values)
    return max(values)


def figure(aggregation):
    group = Group("both", aggregate_metric_list=[AggMetricConfig("acc", ["none"], aggregation=aggregation)])
    for name in METRICS:
        # A task without rows: aggregation asks for its name alone.
        task = ConfigurableTask.__new__(ConfigurableTask)
        task._config = type("Config", (), {"task": name})()
        group.add(task)
    return group.aggregate(METRICS)["acc,none"]


mean, chosen = figure("mean"), figure(largest)
print(f"mean: {mean}; with a function that takes the largest: {chosen}; calls of it: {len(called)}")
sys.exit(0 if (mean, chosen, called) == (0.625, 0.625, []) else 1)
PYTHON
