"""What people see of RL while it runs: completions with their rewards, and signs that it has stopped learning.

rollouts.jsonl has one JSON object a completion that was kept:

step, id, question        the step that learns from it, and its row
completion, tokens        the text (its first 4,000 characters) and its length
cut_off                   whether it had not ended at rl.max_completion_length
reward, rewards           the weighted sum, and each reward by name before weighing; null where it had no say
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lorapar.config import RlConfig
from lorapar.training.rows import WARM_UP
from lorapar.training.watch import Figures

ROLLOUTS = "rollouts.jsonl"
STEPS_ON_END = 5
"""As many steps in a row make a sign; a single step can be all of one kind by chance."""
_ENTROPY_LEFT = 0.1
"""Share of the entropy of the first steps below which it has fallen away."""
_LONGEST = 4000


class KeptRollouts:
    """The file of completions that are kept, a few of every step."""

    def __init__(self, path: Path, each: int) -> None:
        """Keep `each` completions a step in `path`; 0: none, and no file."""
        self._path, self._each = path, each

    def resume(self, steps: int) -> None:
        """Drop what an earlier call kept of steps that are made again, and a line that it did not finish."""
        kept = [line for line in _lines(self._path) if line["step"] <= steps]
        self._path.unlink(missing_ok=True)
        if self._each:
            self._path.write_text("".join(map(_text, kept)), encoding="utf-8")

    def places(self, count: int) -> list[int]:
        """Which of `count` completions are kept: spread evenly over the prompts of a step."""
        kept = min(self._each, count)
        return [place * count // kept for place in range(kept)]

    def keep(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append completions of one step."""
        if lines:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(map(_text, lines))


def rollout_line(
    step: int,
    row: Mapping[str, Any],
    completion: Any,
    ended: tuple[int, bool],
    rewards: Mapping[str, tuple[float, float]],
) -> dict[str, Any]:
    """A completion as it is kept.

    `ended`: its tokens and whether it was cut off. `rewards`: (value, weight) by name, NaN where there is no say.
    """
    said = {name: value for name, (value, _) in rewards.items() if not math.isnan(value)}
    text = completion if isinstance(completion, str) else completion[0]["content"]
    return {
        "step": step,
        "id": row["id"],
        "question": row["question"][:_LONGEST],
        "completion": text[:_LONGEST],
        "tokens": ended[0],
        "cut_off": ended[1],
        "reward": sum(value * rewards[name][1] for name, value in said.items()) if said else None,
        "rewards": {name: said.get(name) for name in rewards},
    }


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(text)
        except ValueError:  # a process was killed while it wrote
            return


@dataclass(frozen=True)
class Stall:
    """Steps on end in which RL could not learn what it should."""

    what: str
    first_step: int
    last_step: int
    line: str
    """What happened and what to change."""

    def document(self) -> dict[str, Any]:
        """For summary.json."""
        return {"what": self.what, "first_step": self.first_step, "last_step": self.last_step, "line": self.line}


def stalls(steps: Sequence[Figures], config: RlConfig) -> list[Stall]:
    """Every time that `STEPS_ON_END` steps or more were all cut off, all alike, or of hardly any entropy.

    Steps that learn from earlier completions once more (`rl.num_iterations`) do not count.
    """
    sampled = [step for step in steps if "completion_length" in step]
    found = []
    for what, is_so in _signs(sampled).items():
        for run in _runs(sampled, is_so):
            first, last = int(run[0]["step"]), int(run[-1]["step"])
            line = f"in {len(run)} steps on end ({first} to {last}) {_words(what, sampled, run, config)}"
            found.append(Stall(what, first, last, line))
    return sorted(found, key=lambda stall: stall.first_step)


def new_stall(steps: Sequence[Figures], config: RlConfig) -> list[Stall]:
    """Those that the last step has just made."""
    last = steps[-1]
    if "completion_length" not in last:
        return []
    now = [stall for stall in stalls(steps, config) if stall.last_step == int(last["step"])]
    before = {(stall.what, stall.first_step) for stall in stalls(steps[:-1], config)}
    return [stall for stall in now if (stall.what, stall.first_step) not in before]


def _signs(sampled: Sequence[Figures]) -> dict[str, Callable[[Figures], bool]]:
    start = _first_entropy(sampled)
    return {
        "cut off": lambda step: step.get("cut_off_share") == 1.0,
        "rewards alike": lambda step: step.get("same_reward_share") == 1.0,
        "entropy": lambda step: start > 0 and step.get("entropy", start) < _ENTROPY_LEFT * start,
    }


def _first_entropy(sampled: Sequence[Figures]) -> float:
    values = [step["entropy"] for step in sampled[:STEPS_ON_END] if "entropy" in step]
    return fmean(values) if values else 0.0


def _runs(steps: Sequence[Figures], is_so: Callable[[Figures], bool]) -> Iterator[list[Figures]]:
    run: list[Figures] = []
    for step in steps:
        if is_so(step):
            run.append(step)
            continue
        if len(run) >= STEPS_ON_END:
            yield run
        run = []
    if len(run) >= STEPS_ON_END:
        yield run


def _words(what: str, sampled: Sequence[Figures], run: Sequence[Figures], config: RlConfig) -> str:
    if what == "cut off":
        return (
            f"every completion was cut off at {config.max_completion_length:,} tokens, so no answer was ever whole; "
            f"raise rl.max_completion_length, or warm the format up in SFT ({WARM_UP})"
        )
    if what == "rewards alike":
        return (
            "all completions of each prompt earned the same reward, so nothing was learned; look at the completions "
            "(lorapar watch), raise rl.temperature or rl.num_generations, or warm the format up in SFT "
            f"({WARM_UP})"
        )
    return (
        f"the entropy was below {_ENTROPY_LEFT:.0%} of where it began ({_first_entropy(sampled):.3g} nats a token, now "
        f"{run[-1]['entropy']:.3g}), so hardly anything new is tried; lower rl.learning_rate, raise rl.kl_beta or "
        "rl.epsilon_high, or set rl.entropy_coef"
    )
