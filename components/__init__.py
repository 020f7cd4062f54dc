"""One Kubeflow component a stage. `from components import sft` gives it to a pipeline of your own."""

from components.evaluate import evaluate
from components.execute import execute
from components.gate import gate
from components.init import init
from components.partition import partition
from components.plan import plan
from components.prepare import prepare
from components.promote import promote
from components.publish import publish
from components.report import report
from components.rl import rl
from components.score import score
from components.sft import sft
from components.tally import tally
from components.vote import vote

__all__ = [
    "evaluate",
    "execute",
    "gate",
    "init",
    "partition",
    "plan",
    "prepare",
    "promote",
    "publish",
    "report",
    "rl",
    "score",
    "sft",
    "tally",
    "vote",
]
