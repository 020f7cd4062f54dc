"""A judge as a reward or as a measure of an evaluation: a teacher behind an endpoint says one of two words of a text.

It is asked as teachers are (the same client, retries and ways of holding an answer to the words), and what it said is
kept by content in the cache of votes, so that the same completion is never paid for twice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lorapar.answers import References
from lorapar.config import JudgeConfig, ModelConfig, TeacherConfig
from lorapar.progress import Progress
from lorapar.records import Example, Vote, digest_of
from lorapar.store import ObjectStore
from lorapar.training.columns import Columns
from lorapar.voting.endpoint_teacher import EndpointTeacher
from lorapar.voting.teacher_pool import VoteCache, teacher_identity


class JudgeReward:
    """1 for the good word and 0 for the bad one, or the good word's probability where the endpoint tells it.

    None for a completion that the endpoint would not judge, and where it is less sure than `min_confidence`. An empty
    completion earns 0 and is not shown to it.
    """

    takes_columns = True

    def __init__(
        self,
        name: str,
        options: JudgeConfig,
        cache: VoteCache | None,
        progress: Progress,
        environment: Mapping[str, str] = os.environ,
        setting: str = "rl.rewards",
    ) -> None:
        self._name, self._options, self._cache = name, options, cache
        self._teacher = EndpointTeacher(
            options.teacher(name),
            target="",
            role_play=False,
            environment=environment,
            log=progress.log,
            whose=f"{setting}: judge '{name}'",
        )
        self.calls = self.recalled = self.abstained = 0
        """Completions that were asked about, that were known, and that the judge did not judge."""

    def __call__(
        self, completions: Sequence[str], references: Sequence[References], columns: Columns
    ) -> list[float | None]:
        """Its verdicts; raises BadInputError and UnreachableError as a teacher does."""
        shown = [self._example(*one) for one in zip(columns.questions, columns.answers, completions, strict=True)]
        different = {example.id: example for example in shown if example.answer}
        votes = {vote.example_id: vote for vote in self._votes(list(different.values()))}
        rewards = [self._reward(votes.get(example.id)) if example.answer else 0.0 for example in shown]
        self.abstained += sum(reward is None for reward in rewards)
        return rewards

    def counts(self) -> dict[str, int]:
        """For summary.json."""
        return {"calls": self.calls, "recalled": self.recalled, "abstained": self.abstained}

    def close(self) -> None:
        """End its connections."""
        self._teacher.close()

    def _example(self, question: str, answer: str, completion: str) -> Example:
        if self._options.show_answer and answer:
            question = f"{question}\n\nA right answer: {answer}"
        return Example(id=digest_of([question, completion])[:16], question=question, answer=completion.strip())

    def _votes(self, examples: Sequence[Example]) -> list[Vote]:
        known = list(self._cache.recall(self._name, examples)) if self._cache is not None else []
        self.recalled += len(known)
        remembered = {vote.example_id for vote in known}
        by_id = {example.id: example for example in examples}
        for vote in self._teacher.votes(examples, remembered):
            if self._cache is not None and vote.label is not None:  # a filter may be another one tomorrow
                self._cache.keep(self._name, by_id[vote.example_id], vote)
            known.append(vote)
        self.calls += len(examples) - len(remembered)
        if self._cache is not None:
            self._cache.flush()
        return known

    def _reward(self, vote: Vote | None) -> float | None:
        if vote is None or vote.label is None:
            return None
        is_good = vote.label == "system2"
        if vote.confidence is None:
            return float(is_good)
        if vote.confidence < self._options.min_confidence:
            return None
        return vote.confidence if is_good else 1.0 - vote.confidence


def judge_cache(
    judges: Mapping[str, JudgeConfig], folder: Path, store: ObjectStore | None, *, anew: bool = False
) -> VoteCache:
    """The cache of what these judges said, the file that votes are kept in; `anew`: as VoteCache."""
    teachers = [judge.teacher(name) for name, judge in judges.items()]
    return VoteCache(folder / "votes.sqlite", teachers, _identity, store, anew=anew)


def _identity(teacher: TeacherConfig) -> str:
    return teacher_identity(teacher, ModelConfig(name="judge"), role_play=False)
