"""A run in experiment trackers: TensorBoard, MLflow and Weights & Biases beside it.

Curves come by transformers' own integrations; votes, partition, evaluation, gate, adapter and lineage once at the end.
A tracker that fails or does not answer is told once and then left out.
"""

from lorapar.tracking.names import flat, of_a_step, unique_names
from lorapar.tracking.run import Tracking, tracked
from lorapar.tracking.services import Summary, TrackedRun

__all__ = ["Summary", "TrackedRun", "Tracking", "flat", "of_a_step", "tracked", "unique_names"]
