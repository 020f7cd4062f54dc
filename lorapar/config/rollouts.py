"""What samples RL's completions beside the trainer: an engine of vLLM in its process, or a server of vLLM."""

from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lorapar.config.base import Positive, Rate, Section, Share, unless_default
from lorapar.config.voting import Address, ConnectionOptions, VllmOptions, why_no_address

ENGINES = ("vllm", "server")
"""Values of `rl.rollouts` whose completions come with probabilities that are not the trainer's own."""


class EngineOptions(VllmOptions):
    """How the engine of rl.rollouts vllm is started."""

    gpu_memory_utilization: Share = Field(
        0.3, description="Share of each GPU's memory that the engine may take, beside the trainer with its base"
    )
    max_model_len: Positive | None = Field(
        None,
        description="Longest prompt with its completion, tokens; absent: rl.max_prompt_length with "
        "rl.max_completion_length",
    )
    sleep: bool | None = Field(
        None,
        description="Give the engine's GPU memory back while the adapter learns (vLLM's sleep mode, level 1); null: "
        "where there is CUDA",
    )

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(self, handler(self), "sleep")


class ServerOptions(ConnectionOptions):
    """How the server of rl.rollouts server is asked."""

    concurrency: Positive = Field(256, description="Completions on the way at once, of each training process")
    timeout_seconds: Rate = Field(
        1800.0, description="How long one completion may take; to load, unload or look no more than 60 s of it"
    )


class RolloutServer(Section):
    """The server of rl.rollouts server: vLLM with the base, which is sent the adapter at every step."""

    endpoint: Address = Field(description="Address of its API, such as http://rollouts:8000/v1")
    folder: str | None = Field(
        None,
        description="Folder by which adapters travel, that server and training see under this same path; null: they "
        "are sent over HTTP, to a server with lorapar's middleware",
    )
    openai: ServerOptions = Field(default_factory=ServerOptions, description="How it is asked")
    wait_seconds: Rate = Field(
        600.0, description="How long a server that is gone is waited for, before RL ends with its state kept"
    )

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        if (wrong := why_no_address(self.endpoint, "rl.server")) is not None:
            raise ValueError(wrong)
        if self.folder is not None and "://" in self.folder:
            raise ValueError(
                f"folder: {self.folder} is no folder that the server's vLLM could read; name one that both see, or "
                "leave it out"
            )
        return self
