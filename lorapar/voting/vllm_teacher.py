"""The `vllm` backend: a teacher that vLLM runs in this process, scored in the same way as the transformers one.

A vote is the likelier label word, by the log-probabilities of the words' tokens before any mask; nothing is generated,
so every answer is a label. Words of one token take one question for each row. Longer words take one for each position
where their tokens have to be read, and these share the prompt in vLLM's prefix cache. Questions go through the engine's
own queue, which is kept full, and answers come out as they are ready. So nothing waits for the slowest of a batch, and
a stop loses only the running questions. `prompt_logprobs` would compute every position of the prompt and could not use
the prefix cache; with `structured_outputs`, log-probabilities come after the mask.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from lorapar.basemodel.load import model_folder
from lorapar.basemodel.number_format import require_settled
from lorapar.basemodel.shape import VLLM_ANSWERS_OTHERWISE, config_values
from lorapar.config import ModelConfig, TeacherConfig, VllmOptions
from lorapar.errors import BadInputError
from lorapar.progress import Progress
from lorapar.records import Example, System, Vote
from lorapar.voting.reader import Choice, Reader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


WAITING_QUESTIONS = 2048
"""Questions queued in the engine: several times what it runs at once."""


K = TypeVar("K")
WINDOW_ROWS = 256
"""Rows that are tokenised together."""
Tokens = tuple[int, ...]


class EngineError(Exception):
    """The engine stopped working; the message says why."""


@dataclass(frozen=True)
class NextTokens(Generic[K]):
    """One question to the model: the log-probabilities of `wanted` as the token after `prompt`."""

    key: K
    prompt: tuple[int, ...]
    wanted: tuple[int, ...]


class VllmEngine:
    """A model that vLLM holds in memory; `close` gives the memory back."""

    def __init__(self, model: ModelConfig, options: VllmOptions, progress: Progress) -> None:
        self.llm = start_llm(model, options, progress)
        self.longest: int = self.llm.model_config.max_model_len
        """Tokens that fit into the model, prompt and answer together."""
        from vllm.inputs import tokens_input

        self._tokens_input = tokens_input
        # The engine copies its parameters; making them again for each question would take longer than the copy.
        self._asking_for = cache(_asking_for)

    def log_probs(self, questions: Iterable[NextTokens[K]]) -> Iterator[tuple[K, dict[int, float]]]:
        """(key, log-probability of each wanted token) for every question, in the order of the answers.

        Log-probabilities are natural, over the whole vocabulary. Raises EngineError where the engine fails.
        """
        waiting = iter(questions)
        asked: dict[str, NextTokens[K]] = {}
        number = 0
        try:
            while True:
                while len(asked) < WAITING_QUESTIONS and (question := next(waiting, None)) is not None:
                    number += 1
                    asked[str(number)] = question
                    self._add(str(number), question)
                if not asked:
                    return
                for output in self._step():
                    if output.finished:
                        question = asked.pop(output.request_id)
                        yield question.key, _read(output, question)
        finally:
            if asked:
                self.llm.llm_engine.abort_request(list(asked))

    def close(self) -> None:
        """Stop the engine and free its memory; the object cannot be used afterwards."""
        shut_down(self.llm)
        del self.llm

    def _add(self, name: str, question: NextTokens[Any]) -> None:
        prompt = self._tokens_input(list(question.prompt))
        self.llm.llm_engine.add_request(name, prompt, self._asking_for(question.wanted))

    def _step(self) -> list[Any]:
        try:
            outputs: list[Any] = self.llm.llm_engine.step()
        except Exception as error:
            raise EngineError(f"vLLM stopped working: {_first_line(error)}") from error
        return outputs


def shut_down(llm: Any) -> None:
    """Stop an engine and free its memory."""
    import torch

    llm.llm_engine.engine_core.shutdown()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def start_llm(model: ModelConfig, options: VllmOptions, progress: Progress, **more: Any) -> Any:
    """A vLLM engine with this model; `more` are further settings of the engine. Raises BadInputError."""
    require_settled(model)
    if more.get("enable_lora"):
        require_equal_answers(model)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    _require_vllm()
    from vllm import LLM

    folder = str(model_folder(model, progress))
    try:
        return LLM(
            model=folder,
            dtype=model.dtype,
            trust_remote_code=model.trust_remote_code,
            tensor_parallel_size=options.tensor_parallel_size,
            quantization=options.quantization,  # type: ignore[arg-type, unused-ignore]
            max_model_len=options.max_model_len,
            gpu_memory_utilization=options.gpu_memory_utilization,
            enable_prefix_caching=True,
            disable_log_stats=True,
            **more,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise BadInputError(f"vLLM cannot start with {model.name}: {_first_line(error)}") from error


def require_equal_answers(model: ModelConfig) -> None:
    """Raise BadInputError for a model with whose adapters vLLM gives other answers than PEFT."""
    kind = config_values(model).get("model_type")
    if kind in VLLM_ANSWERS_OTHERWISE:
        raise BadInputError(
            f"{model.name}: vLLM gives other answers with adapters of {kind} than PEFT; set evaluate.backend and "
            "rl.rollouts to transformers"
        )


def _require_vllm() -> None:
    try:
        import vllm  # noqa: F401
    except ModuleNotFoundError as error:
        raise BadInputError(
            f"the vllm backend needs {error.name}, which is not installed here; use an environment (or the image) "
            "with vLLM, or the backend transformers"
        ) from error


def _asking_for(wanted: tuple[int, ...]) -> Any:
    """Sampling parameters for one token with the log-probabilities of these tokens."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=list(wanted), detokenize=False)


def _read(output: Any, question: NextTokens[Any]) -> dict[int, float]:
    found = output.outputs[0].logprobs[0]
    return {token: found[token].logprob for token in question.wanted}


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__


class VllmTeacher:
    """One teacher on a running engine (a `lorapar.voting.teacher.Teacher`); several may share the engine.

    `target` is the role-played model as `templates.target_text` writes it.
    """

    def __init__(
        self,
        config: TeacherConfig,
        engine: VllmEngine,
        tokenizer: PreTrainedTokenizerBase,
        *,
        target: str,
        role_play: bool,
    ) -> None:
        self.config = config
        self._engine = engine
        self._reader = Reader(config, tokenizer, engine.longest, target=target, role_play=role_play)

    def votes(self, examples: Sequence[Example], done: Set[str] = frozenset()) -> Iterator[Vote]:
        """One vote for each example that is not in `done`, as the engine answers.

        Raises BadInputError for a row that is too long for the model, and where the engine fails or numbers are not
        finite.
        """
        asked = [example for example in examples if example.id not in done]
        sheet = _Sheet()
        try:
            for key, log_probs in self._engine.log_probs(self._questions(asked, sheet)):
                finished = sheet.fill(key, log_probs)
                if finished is not None:
                    yield self._reader.vote(asked[key.row], *finished)
        except EngineError as error:
            raise BadInputError(f"teacher '{self.config.name}': {error}") from error

    def _questions(self, examples: Sequence[Example], sheet: _Sheet) -> Iterator[NextTokens[Place]]:
        for start in range(0, len(examples), WINDOW_ROWS):
            for row, choice in enumerate(self._reader.choices(examples[start : start + WINDOW_ROWS]), start):
                sheet.choices[row] = choice
                for after, wanted in places(choice).items():
                    yield NextTokens(Place(row, after), choice.prompt + after, wanted)


class Place(NamedTuple):
    """A position where a row's label words are read."""

    row: int
    after: Tokens
    """The word's tokens before this position."""


class _Sheet:
    """The answers so far for running rows."""

    def __init__(self) -> None:
        self.choices: dict[int, Choice] = {}
        self._read: dict[int, dict[Tokens, dict[int, float]]] = {}

    def fill(self, place: Place, log_probs: dict[int, float]) -> tuple[Choice, dict[System, float]] | None:
        """Note an answer; after a row's last one, returns its choice and the label words' log-probabilities."""
        read = self._read.setdefault(place.row, {})
        read[place.after] = log_probs
        if len(read) < len(places(self.choices[place.row])):
            return None
        choice = self.choices.pop(place.row)
        return choice, word_log_probs(choice, self._read.pop(place.row))


def places(choice: Choice) -> dict[Tokens, Tokens]:
    """The positions to read: the word's tokens before each, and the tokens wanted there."""
    wanted: dict[Tokens, dict[int, None]] = {}
    for word in choice.words.values():
        for length, token in enumerate(word):
            wanted.setdefault(word[:length], {})[token] = None
    return {after: tuple(tokens) for after, tokens in wanted.items()}


def word_log_probs(choice: Choice, read: dict[Tokens, dict[int, float]]) -> dict[System, float]:
    """The log-probability of each whole label word, from those of its tokens."""
    return {
        system: sum(read[word[:length]][token] for length, token in enumerate(word))
        for system, word in choice.words.items()
    }
