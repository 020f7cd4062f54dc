"""What a server must be given that the base model's files do not contain: a chat template, and what ends an answer.

Only where there is such a thing do files and lineage tell of it; vLLM takes both files as they are
(`--chat-template FILE`, `--generation-config FOLDER`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lorapar.basemodel import answer_end, brings_template, generation_settings, load_tokenizer
from lorapar.config import ModelConfig
from lorapar.records import read_json, write_json

TEMPLATE_FILE = "chat_template.jinja"
GENERATION_FILE = "generation_config.json"
IN_SUMMARY = "asking"
"""Where a trained adapter's summary.json tells of it."""


@dataclass(frozen=True)
class ChatSettings:
    """How the base model is asked, as far as it differs from what its own files say."""

    stop_tokens: dict[str, int]
    """Every token that ends an answer, where the model's own files do not name them all; else none."""
    template: str | None
    generation: dict[str, Any]
    """The model's generation settings, with every token that ends an answer."""
    stop_strings: list[str] = field(default_factory=list)
    """Texts of several tokens that end an answer too; vLLM takes them from requests alone."""

    @classmethod
    def of(cls, model: ModelConfig) -> ChatSettings:
        """Read from the tokenizer, as training used it."""
        tokenizer = load_tokenizer(model)
        end = answer_end(tokenizer)
        unnamed = end.token_ids if end.unnamed_ids else ()
        return cls(
            stop_tokens={str(tokenizer.convert_ids_to_tokens(one)): one for one in unnamed},
            template=str(tokenizer.chat_template) if brings_template(tokenizer, model) else None,
            generation={**generation_settings(tokenizer), "eos_token_id": list(end.token_ids)},
            stop_strings=list(end.strings),
        )

    @classmethod
    def of_training(cls, adapter: Path, model: ModelConfig) -> ChatSettings:
        """As the stage that trained the adapter wrote it down, which spares the libraries; else from the tokenizer."""
        path = adapter / "summary.json"
        found = (read_json(path) if path.is_file() else {}).get(IN_SUMMARY, {})
        if found.get("base") != _base(model):
            return cls.of(model)
        return cls(
            **{key: found[key] for key in ("stop_tokens", "template", "generation")},
            stop_strings=found.get("stop_strings", []),
        )

    def in_summary(self, model: ModelConfig) -> dict[str, Any]:
        """What a stage of training writes down about its model."""
        return {IN_SUMMARY: {"base": _base(model), **asdict(self)}}

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the files that a server needs; returns what the lineage tells of them."""
        settings: dict[str, Any] = {}
        if self.stop_tokens:
            write_json(folder / GENERATION_FILE, self.generation)
            settings["stop_tokens"] = self.stop_tokens
        if self.stop_strings:
            settings["stop_strings"] = self.stop_strings
        if self.template is not None:
            (folder / TEMPLATE_FILE).write_text(self.template, encoding="utf-8")
            settings["chat_template"] = TEMPLATE_FILE
        return settings


def _base(model: ModelConfig) -> dict[str, Any]:
    """What decides how a model is asked."""
    fields = {"name", "revision", "digest", "chat_template", "chat_template_kwargs"}
    return model.model_dump(mode="json", include=fields)


def stop_token_ids(serving: Mapping[str, Any]) -> list[int]:
    """Tokens that requests have to name, from what a lineage says about serving."""
    return sorted(serving.get("stop_tokens", {}).values())


def stop_strings(serving: Mapping[str, Any]) -> list[str]:
    """Texts that requests have to name as `stop`, from what a lineage says about serving."""
    return [str(one) for one in serving.get("stop_strings", [])]


def stop_words(serving: Mapping[str, Any]) -> str:
    """The same tokens as people read them: `<|im_end|>` (2)."""
    return ", ".join(f"`{token}` ({number})" for token, number in serving.get("stop_tokens", {}).items())
