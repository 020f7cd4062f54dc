"""Open a teacher by its settings. Each backend is imported when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorapar.basemodel import load_model, load_tokenizer, resolve_model
from lorapar.config import ModelConfig, TeacherConfig
from lorapar.progress import Progress
from lorapar.voting.teacher import Teacher, teacher_model
from lorapar.voting.templates import target_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Backends:
    """Opens teachers. The last model stays loaded, so that teachers of one model in a row share it."""

    def __init__(self, base: ModelConfig, *, role_play: bool, progress: Progress) -> None:
        self._base = base
        self._role_play = role_play
        self._progress = progress
        self._key: ModelConfig | None = None
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def open(self, config: TeacherConfig) -> Teacher:
        """The teacher, ready to vote; raises BadInputError or UnreachableError where its model cannot be had."""
        from lorapar.voting.transformers_teacher import TransformersTeacher

        model, tokenizer = self._load(resolve_model(teacher_model(config, self._base)))
        return TransformersTeacher(config, model, tokenizer, target=target_text(self._base), role_play=self._role_play)

    def _load(self, config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        # What a model is described as does not change its weights.
        key = config.model_copy(update={"description": ""})
        if self._loaded is None or self._key != key:
            self._loaded = None
            self._progress.say(f"loading {config.name}")
            self._loaded = (load_model(config, self._progress), load_tokenizer(config))
            self._key = key
        return self._loaded


def is_base(config: TeacherConfig, base: ModelConfig) -> bool:
    """Whether a teacher is the base model itself, by name and revision or by digest.

    The digest of a hub model names its commit, so a local copy of a hub model does not count as the same.
    """
    own = teacher_model(config, base)
    if (own.name, own.revision) == (base.name, base.revision):
        return True
    return resolve_model(own).digest == resolve_model(base).digest
