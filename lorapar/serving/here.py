"""Ask an adapter and its base model on this machine as evaluation does: same prompts, template and stop tokens.

An adapter is a PEFT folder, or a version of a registry, which is fetched and verified first. Its lineage says what it
was trained with. Without a lineage (an adapter made elsewhere), prompts use the chat template beside it, or else the
base's own, and no system message.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from lorapar.basemodel.number_format import number_format
from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.config import ModelConfig, PromptConfig
from lorapar.config.adapter import kind_of_peft
from lorapar.errors import BadInputError, IntegrityError
from lorapar.progress import Progress
from lorapar.records import Example, System, Turn, read_json, write_json
from lorapar.registry.package import CONFIG_FILE
from lorapar.registry.start import Start, start_in, template_in
from lorapar.serving.base_identity import is_on_hub, require_same
from lorapar.store import replace_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lorapar.evaluation.transformers_engine import TransformersModel

_SHOWN_CHARACTERS = 60
"""How much of a question that is too long an error shows."""


@dataclass(frozen=True)
class LocalAdapter:
    """An adapter with local files, and how to prompt it."""

    name: str
    """The name it was given by."""
    folder: Path
    model: ModelConfig
    """The base model, with its number format decided."""
    prompts: PromptConfig


def read_adapter(name: str, folder: Path, base: Path | None = None) -> LocalAdapter:
    """Read a PEFT folder's base and prompts; `base` is another place of the same base model.

    Raises BadInputError for a folder that is no adapter, or whose lineage cannot be read.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise BadInputError(f"{name}: not an adapter folder: it has no adapter_model.safetensors")
    start = start_in(folder, name)
    settings: dict[str, Any] = (start.lineage or {}).get("settings", {})
    try:
        model = _base(start, settings, folder)
        prompts = PromptConfig.model_validate(settings.get("prompts", {} if start.lineage else {"system2": None}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInputError(
            f"{name}: its lineage.json was written by another version of lorapar, and this one cannot read its "
            f"settings ({where}: {first['msg']})"
        ) from None
    model = number_format().of_model(model)
    if base is None:
        _require_there(name, model)
    if base is not None or kind_of(model) is Kind.LOCAL:
        require_same(name, model, base or Path(model.name), "name a folder with the base it was trained on as --model")
    if base is not None:
        model = model.model_copy(update={"name": str(base.absolute()), "revision": None, "digest": None})
    return LocalAdapter(name, folder, model, prompts)


def _require_there(name: str, model: ModelConfig) -> None:
    """Raise BadInputError where the base was a folder that is gone: a hub model of its name would be another one."""
    was_folder = kind_of(model) is Kind.HUB and not is_on_hub(model)
    if was_folder or (kind_of(model) is Kind.LOCAL and not Path(model.name).expanduser().is_dir()):
        raise BadInputError(
            f"{name}: its base model '{model.name}' was a folder, which is not here; name where it is now: "
            "--model FOLDER"
        )


def _base(start: Start, settings: dict[str, Any], folder: Path) -> ModelConfig:
    if start.lineage is None:
        name, revision = start.config["base_model_name_or_path"], start.config.get("revision")
        return ModelConfig(name=name, revision=revision, chat_template=template_in(folder))
    recorded = {key: start.lineage["base"].get(key) for key in ("name", "revision", "digest")}
    values = {**settings.get("model", {}), **recorded}
    if "{" not in str(values.get("chat_template") or ""):  # lorapar records the text; this names a file of this machine
        values["chat_template"] = None
    found = ModelConfig.model_validate(values).alone
    # A published adapter must not decide that a model's code runs here.
    return found.model_copy(update={"trust_remote_code": False})


@dataclass(frozen=True)
class Reply:
    """An answer."""

    text: str
    tokens: int
    cut_off: bool
    """Whether it reached the largest length and did not end by itself."""


class Pair:
    """A base model in memory with an adapter on it; both can be asked."""

    def __init__(
        self,
        adapter: LocalAdapter,
        tokenizer: PreTrainedTokenizerBase,
        asked: TransformersModel,
        longest: int | None = None,
    ) -> None:
        """Use `open_pair` to make one. `longest`: tokens that the model reads at once; None where it does not say."""
        self.adapter, self.tokenizer = adapter, tokenizer
        self._asked, self._longest = asked, longest

    def text(self, tokens: Sequence[int]) -> str:
        """The text to show for an answer's tokens, or for its first tokens."""
        from lorapar.evaluation.answers import answer_text

        return answer_text(self.tokenizer, tokens)

    def ask(
        self,
        questions: Sequence[Example],
        systems: Sequence[System | None],
        max_new_tokens: int,
        *,
        base: bool,
        streamer: Any = None,
    ) -> list[Reply]:
        """Answers of the base (with `base`) or of the adapter to questions, computed as one batch.

        `streamer` has transformers' `put` and `end`; only for a single question.
        """
        from lorapar.evaluation.answers import is_cut_off
        from lorapar.prompts import prompt_ids, prompt_messages

        chats = [
            prompt_messages(one, system, self.adapter.prompts) for one, system in zip(questions, systems, strict=True)
        ]
        prompts = [prompt_ids(self.tokenizer, chat) for chat in chats]
        for one, prompt in zip(questions, prompts, strict=True):
            self._require_fit(one, len(prompt))
        with self._asked.adapter_off() if base else nullcontext():
            written = self._asked.generate(prompts, max_new_tokens, streamer=streamer)
        return [Reply(self.text(one), len(one), is_cut_off(self.tokenizer, one)) for one in written]

    def _require_fit(self, one: Example, tokens: int) -> None:
        if self._longest is not None and tokens >= self._longest:
            raise BadInputError(
                f"the question '{one.question[:_SHOWN_CHARACTERS]}…' has {tokens} tokens with what comes before it, "
                f"and {self.adapter.model.name} reads at most {self._longest} at once; shorten it, or begin a new "
                "conversation"
            )


@contextmanager
def open_pair(adapter: LocalAdapter, progress: Progress) -> Iterator[Pair]:
    """Load base and adapter; only reads the base model's files."""
    from lorapar.basemodel import load_model, load_tokenizer
    from lorapar.evaluation.transformers_engine import TransformersEngine

    tokenizer = load_tokenizer(adapter.model, progress)
    base = load_model(adapter.model, progress)
    longest = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    engine = TransformersEngine(base, tokenizer, autocast=adapter.model.autocast == "bfloat16")
    with engine.asked(adapter.folder) as asked:
        yield Pair(adapter, tokenizer, asked, longest)


def question(text: str, name: str = "question", history: Sequence[Turn] = ()) -> Example:
    """A question in the form of evaluation's rows; `history` is the conversation before it."""
    return Example(id=name, question=text, answer="", history=tuple(history) or None)


def merge(adapter: LocalAdapter, folder: Path, progress: Progress) -> float:
    """Make `folder` one plain model of base and adapter: weights, tokenizer, template and every stop token.

    The base model's files are only read, and the folder is written as a whole or not at all. Returns the largest
    difference of a logit between the model read back and base with adapter; raises IntegrityError if that is more than
    1e-4 in float32.
    """
    scratch = folder.with_name(f".{folder.name}.merging")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        difference = _merge_into(adapter, scratch, progress)
        replace_folder(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return difference


def _merge_into(adapter: LocalAdapter, folder: Path, progress: Progress) -> float:
    from lorapar.basemodel import load_model, load_tokenizer
    from lorapar.basemodel.quiet import quiet
    from lorapar.evaluation.transformers_engine import with_adapter
    from lorapar.registry.verify import MAX_LOGIT_DIFFERENCE

    kind = kind_of_peft(read_json(adapter.folder / CONFIG_FILE))
    if kind in ("prompt", "prefix"):
        raise BadInputError(
            f"{adapter.folder} is of the kind {kind}, which changes no weight of the base and so cannot be merged; "
            "load it with PEFT"
        )
    tokenizer = load_tokenizer(adapter.model, progress)
    progress.start("merging", total=2)
    with with_adapter(load_model(adapter.model, progress), adapter.folder) as adapted:
        expected = _logits(adapted, tokenizer)
        merged: Any = cast("Any", adapted).merge_and_unload(safe_merge=True)
        with quiet():
            merged.save_pretrained(folder)
    del adapted, merged
    _write_text_side(tokenizer, folder)
    progress.advance()
    plain = ModelConfig(name=str(folder), dtype=adapter.model.dtype, autocast="none")
    difference = float((_logits(load_model(plain, progress), tokenizer) - expected).abs().max())
    progress.advance()
    if adapter.model.dtype == "float32" and not difference <= MAX_LOGIT_DIFFERENCE:
        raise IntegrityError(
            f"{adapter.name}: the merged model does not answer as base and adapter do (largest logit difference "
            f"{difference:g}), so it is not kept; report this as a bug"
        )
    return difference


def _logits(model: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The logits of one prompt, [tokens, vocabulary] float32 on the CPU."""
    import torch

    from lorapar.prompts import prompt_ids
    from lorapar.registry.verify import FIXED_PROMPT

    ids = torch.tensor([prompt_ids(tokenizer, [{"role": "user", "content": FIXED_PROMPT}])])
    with torch.inference_mode():
        return model(ids.to(next(model.parameters()).device)).logits[0].float().cpu()


def _write_text_side(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer with the template used in training, and generation settings with every stop token."""
    from lorapar.basemodel import answer_end, generation_settings

    tokenizer.save_pretrained(folder)
    settings = {**generation_settings(tokenizer), "eos_token_id": list(answer_end(tokenizer).token_ids)}
    write_json(folder / "generation_config.json", settings)
