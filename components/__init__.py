"""One Kubeflow component a task. `from components import sft` gives it to a pipeline of your own."""

from components.evaluate import evaluate
from components.gate import gate
from components.init import init
from components.partition import partition
from components.plan import plan
from components.publish import publish
from components.report import report
from components.rl import rl
from components.score import score
from components.sft import sft
from components.vote import vote
from components.vote_rest import vote_rest

__all__ = [
    "evaluate",
    "gate",
    "init",
    "partition",
    "plan",
    "publish",
    "report",
    "rl",
    "score",
    "sft",
    "vote",
    "vote_rest",
]
