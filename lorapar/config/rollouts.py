"""What samples RL's completions beside the trainer: an engine of vLLM in its process, or a server of vLLM."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lorapar.config.base import Positive, Rate, Section, unless_default
from lorapar.config.voting import Address, EndpointOptions, VllmOptions, why_no_address

ENGINES = ("vllm", "server")
"""Values of `rl.rollouts` whose completions come with probabilities that are not the trainer's own."""


class EngineOptions(VllmOptions):
    """How the engine of rl.rollouts vllm is started."""

    sleep: bool | None = Field(
        None,
        description="Give the engine's GPU memory back while the adapter learns (vLLM's sleep mode, level 1); null: "
        "where there is CUDA",
    )

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(self, handler(self), "sleep")


class ServerOptions(EndpointOptions):
    """How the server of rl.rollouts server is asked."""

    concurrency: Positive = Field(256, description="Completions on the way at once, of each training process")
    timeout_seconds: Rate = Field(1800.0, description="How long one completion may take")

    @model_validator(mode="after")
    def _nothing_for_answers(self) -> ServerOptions:
        for name in ("extra_body", "max_tokens"):
            if getattr(self, name) != EndpointOptions.model_fields[name].default:
                raise ValueError(
                    f"{name}: does nothing here, where the settings of rl say how is sampled; leave it out"
                )
        return self


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
    def _has_an_address(self) -> RolloutServer:
        if (wrong := why_no_address(self.endpoint, "rl.server")) is not None:
            raise ValueError(wrong)
        return self
