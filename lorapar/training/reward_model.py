"""A reward model: a sequence-classification model with one output, read from safetensors without code of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lorapar.answers import References
from lorapar.config import ModelConfig, RewardModelConfig
from lorapar.errors import BadInputError, LoraparError
from lorapar.progress import Progress
from lorapar.records import Omission
from lorapar.training.columns import Columns

if TYPE_CHECKING:
    from pathlib import Path


class ModelReward:
    """The model's output for question and completion, as it is: mostly a logit, without bounds."""

    takes_columns = True

    def __init__(
        self, name: str, options: RewardModelConfig, dtype: str, progress: Progress, setting: str = "rl.rewards"
    ) -> None:
        from transformers import AutoTokenizer

        self._name, self._options, self._setting = name, options, setting
        folder = _folder(name, options, progress, setting)
        progress.log(f"loading the reward model {options.name}")
        self._model = _loaded(folder, f"{setting}.{name}.reward_model", options.name, options.dtype or dtype)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        self._tokenizer.padding_side = "right"
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._model.config.pad_token_id = self._tokenizer.pad_token_id  # the output is taken at the last other token
        self._progress, self._read, self._cut = progress, 0, 0

    def __call__(
        self, completions: Sequence[str], references: Sequence[References], columns: Columns
    ) -> list[float | None]:
        """The output for each; raises BadInputError where one is not finite."""
        import torch

        found: list[float | None] = []
        for start in range(0, len(completions), self._options.batch_size):
            part = slice(start, start + self._options.batch_size)
            fields = self._encoded(columns.questions[part], completions[part]).to(self._model.device)
            with torch.inference_mode():
                values = self._model(**fields).logits[:, 0].float()
            if not bool(torch.isfinite(values).all()):
                raise BadInputError(
                    f"{self._setting}: {self._name} gave a number that is not finite; set its dtype to float32"
                )
            found += values.tolist()
        return found

    def cut(self) -> Omission:
        """How many of the texts that it read were longer than it reads, for the stage's figures."""
        return Omission(
            count=self._cut,
            total=self._read,
            what=f"completions were cut for the reward model {self._name}",
            why=f"question and completion are longer than {self._options.max_length:,} tokens together",
            remedy=f"raise {self._setting}.{self._name}.reward_model.max_length",
        )

    def _encoded(self, questions: Sequence[str], completions: Sequence[str]) -> Any:
        """By the chat template where the model has one, else as a pair of texts."""
        if self._tokenizer.chat_template is None:
            return self._shortened(list(questions), list(completions))
        texts = [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": question}, {"role": "assistant", "content": completion}], tokenize=False
            )
            for question, completion in zip(questions, completions, strict=True)
        ]
        return self._shortened(texts, add_special_tokens=False)

    def _shortened(self, *texts: list[str], **more: Any) -> Any:
        """The tokens that the model reads, padded; what is longer is cut at the end, counted, and said once."""
        longest = self._options.max_length
        lengths = [len(ids) for ids in self._tokenizer(*texts, verbose=False, **more)["input_ids"]]
        cut = sum(length > longest for length in lengths)
        if cut and not self._cut:
            self._progress.log(
                f"warning: {self._setting}: {self._name} reads only the first {longest:,} tokens of a question with "
                f"its completion ({max(lengths):,} tokens), so the end does not count; raise reward_model.max_length"
            )
        self._read, self._cut = self._read + len(lengths), self._cut + cut
        return self._tokenizer(*texts, padding=True, truncation=True, max_length=longest, return_tensors="pt", **more)


def resolved_reward_model(name: str, options: RewardModelConfig, setting: str = "rl.rewards") -> RewardModelConfig:
    """With revision and digest; raises BadInputError and UnreachableError that name the setting."""
    from lorapar.basemodel import resolve_model

    try:
        model = resolve_model(_config(options))
    except LoraparError as error:
        raise _named(f"{setting}.{name}", error) from None
    return options.model_copy(update={"revision": model.revision, "digest": model.digest})


def _folder(name: str, options: RewardModelConfig, progress: Progress, setting: str) -> Path:
    from lorapar.basemodel.load import model_folder

    try:
        return model_folder(_config(options), progress)
    except LoraparError as error:
        raise _named(f"{setting}.{name}", error) from None


def _config(options: RewardModelConfig) -> ModelConfig:
    return ModelConfig(name=options.name, revision=options.revision, digest=options.digest)


def _named(setting: str, error: LoraparError) -> LoraparError:
    return type(error)(re.sub(r"^model\.", f"{setting}.reward_model.", str(error)))


def _loaded(folder: Path, setting: str, shown: str, dtype: str) -> Any:
    """The model on this machine's device; raises BadInputError where it is no reward model."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from lorapar.basemodel.load import default_device
    from lorapar.basemodel.quiet import quiet

    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            kinds = config.architectures or []
            if not any("SequenceClassification" in kind for kind in kinds) or config.num_labels != 1:
                raise BadInputError(
                    f"{setting}: {shown} is no reward model ({', '.join(kinds) or 'no architecture'}, "
                    f"{config.num_labels} outputs); it must be a sequence-classification model with one output"
                )
            model, about = AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError) as error:
        message = " ".join(str(error).split())[:300]
        raise BadInputError(f"{setting}: {shown} cannot be loaded ({message}); name another model") from None
    if about["missing_keys"]:
        missing = ", ".join(sorted(about["missing_keys"])[:3])
        raise BadInputError(f"{setting}: {shown} lacks weights ({missing}), which would be random; name another model")
    return model.to(default_device()).eval()
