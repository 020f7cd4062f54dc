"""Open a teacher from its settings. A backend is imported when it is first needed."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from lorapar.basemodel import load_model, load_tokenizer, require_runs, resolve_model
from lorapar.config import ModelConfig, TeacherConfig, VllmOptions
from lorapar.imports import BASE_LIBRARIES, import_at_once
from lorapar.progress import Progress
from lorapar.voting.teacher import Teacher, target_text, teacher_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lorapar.voting.endpoint_teacher import EndpointTeacher
    from lorapar.voting.vllm_teacher import VllmEngine


class Backends:
    """Opens teachers, one at a time; as a context manager it frees the resources of the last one.

    The last model stays loaded, so that consecutive teachers of one model share it.
    """

    def __init__(self, base: ModelConfig, *, role_play: bool, progress: Progress) -> None:
        self._base = base
        self._role_play = role_play
        self._progress = progress
        self._key: tuple[ModelConfig, VllmOptions | None] | None = None
        self._model: PreTrainedModel | None = None
        self._engine: VllmEngine | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._endpoint: EndpointTeacher | None = None

    def open(self, config: TeacherConfig) -> Teacher:
        """The teacher, ready to vote; raises BadInputError or UnreachableError where it cannot be opened."""
        if config.backend == "openai":
            return self._open_endpoint(config)
        model = resolve_model(teacher_model(config, self._base))
        return self._open_vllm(config, model) if config.backend == "vllm" else self._open_transformers(config, model)

    def close(self) -> None:
        """Free models, engines and connections."""
        if self._engine is not None:
            self._engine.close()
        if self._endpoint is not None:
            self._endpoint.close()
        self._key = self._model = self._engine = self._tokenizer = self._endpoint = None

    def __enter__(self) -> Backends:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_transformers(self, config: TeacherConfig, model: ModelConfig) -> Teacher:
        import_at_once(*BASE_LIBRARIES)
        from lorapar.voting.transformers_teacher import TransformersTeacher

        is_another = self._is_another(model, None)
        if is_another:
            self._progress.log(f"loading {model.name}")
            self._model, self._tokenizer = load_model(model, self._progress), load_tokenizer(model)
            self._key = _key(model, None)
        if self._model is None or self._tokenizer is None:
            raise AssertionError("no model is loaded")
        if is_another:
            require_runs(self._model, self._tokenizer, f"teacher '{config.name}': {model.name}")
        return TransformersTeacher(
            config, self._model, self._tokenizer, target=target_text(self._base), role_play=self._role_play
        )

    def _open_vllm(self, config: TeacherConfig, model: ModelConfig) -> Teacher:
        from lorapar.voting.vllm_teacher import VllmEngine, VllmTeacher

        options = config.vllm or VllmOptions()
        if self._is_another(model, options):
            self._progress.log(f"starting vLLM with {model.name}")
            self._tokenizer = load_tokenizer(model)
            self._engine = VllmEngine(model, options, self._progress)
            self._key = _key(model, options)
        if self._engine is None or self._tokenizer is None:
            raise AssertionError("no engine is started")
        return VllmTeacher(
            config, self._engine, self._tokenizer, target=target_text(self._base), role_play=self._role_play
        )

    def _open_endpoint(self, config: TeacherConfig) -> Teacher:
        from lorapar.voting.endpoint_teacher import EndpointTeacher

        self.close()
        self._endpoint = EndpointTeacher(
            config, target=target_text(self._base), role_play=self._role_play, log=self._progress.log
        )
        return self._endpoint

    def _is_another(self, model: ModelConfig, options: VllmOptions | None) -> bool:
        """Whether this model has to be loaded; the previous one is freed first, because both may not fit."""
        if self._key == _key(model, options):
            return False
        self.close()
        return True


def _key(model: ModelConfig, options: VllmOptions | None) -> tuple[ModelConfig, VllmOptions | None]:
    # A model's description does not change its weights.
    return model.model_copy(update={"description": ""}), options


def is_base(config: TeacherConfig, base: ModelConfig) -> bool:
    """Whether a teacher is the base model itself, by name and revision or by digest.

    The digest of a hub model stands for its commit, so a local copy of a hub model does not count as the same. A model
    behind an endpoint is known by its name only.
    """
    if config.backend == "openai":
        return config.model == base.name
    own = teacher_model(config, base)
    if (own.name, own.revision) == (base.name, base.revision):
        return True
    return resolve_model(own).digest == resolve_model(base).digest
