"""Who votes and how votes become labels: the sections `teachers` and `voting`."""

import json
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lorapar.config.base import SYSTEMS, Dtype, Fraction, Name, Place, Positive, Rate, Section, Share, unless_default


class FewShotRow(Section):
    """One worked example in a teacher's prompt."""

    question: str = Field(description="Question shown to the teacher")
    answer: str = Field(description="Reference answer shown to the teacher")
    system: str = Field(description="The right label of this row: a system's name")


Address = Annotated[str, AfterValidator(str.strip)]
"""An http address; a block of YAML and a secret that was made from a file end in a line break."""


class TeacherTemplate(Section):
    """How a teacher is asked: every backend renders it identically."""

    style: Literal["chat", "plain"] = Field("chat", description="Chat messages, or one plain text to be continued")
    instruction: str = Field(
        "You judge examples for training {target}. Answer as {target} would experience them: {system1} if it can be "
        "answered at once by recall or one simple inference, {system2} if it needs several chained steps.",
        description="Opening words; {target} is the role-played model, {system1} and {system2} the label words",
    )
    neutral_instruction: str = Field(
        "You judge examples for training a language model. Answer {system1} if an example can be answered at once by "
        "recall or one simple inference, {system2} if it needs several chained steps.",
        description="Opening words where voting.role_play is off; {system1} and {system2} are the label words",
    )
    row: str = Field(
        "Question: {question}\nAnswer: {answer}\nKind:", description="How one row is shown; the label word follows"
    )
    label_words: dict[str, str] = Field(
        {"system1": "System1", "system2": "System2"}, description="The word that stands for each system"
    )
    few_shot: tuple[FewShotRow, ...] = Field((), description="Worked examples shown before the row")

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        words = [word.strip() for word in self.label_words.values()]
        if len(words) < 2 or len(set(words)) != len(words) or "" in words:
            raise ValueError("label_words needs different, non-empty words, for system1 and system2 or every system")
        return self

    @property
    def systems(self) -> tuple[str, ...]:
        """The systems that the label words stand for; the two of the paper in their own order."""
        return SYSTEMS if set(self.label_words) == set(SYSTEMS) else tuple(self.label_words)

    @field_validator("row")
    @classmethod
    def _row_shows_the_question(cls, row: str) -> str:
        if "{question}" not in row:
            raise ValueError("row must hold {question}, or every example would look the same to the teacher")
        return row


class VllmOptions(Section):
    """How an engine of vLLM is started; only where backend is vllm."""

    tensor_parallel_size: Positive = Field(1, description="GPUs that share the weights")
    quantization: str | None = Field(
        None, description="Method such as fp8 or awq that the weights are read with; absent: as the model's files say"
    )
    max_model_len: Positive | None = Field(
        None, description="Longest prompt with its answer, tokens; absent: what the model reads"
    )
    gpu_memory_utilization: Share = Field(0.9, description="Share of each GPU's memory that the engine may take")


def _variable(name: str) -> str:
    # Somebody may have put the secret itself here: an error must not repeat it.
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise PydanticCustomError(
            "unshown", "must be the name of an environment variable (letters, digits and _) that holds the value"
        )
    return name


_Variable = Annotated[str, AfterValidator(_variable)]
_HeaderValue = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OWN_HEADERS = frozenset({"content-type", "content-length", "host", "transfer-encoding", "connection"})
_CREDENTIAL = re.compile(
    r"(?i)(^|[-_.])(authorization|(api|access|subscription)?key|token|secret|password|cookie|sig)$"
)


class ConnectionOptions(Section):
    """How requests get to an endpoint: key, headers and patience."""

    api_key_env: _Variable | None = Field(
        None, description="Environment variable that holds the key; absent: no key is sent"
    )
    api_key_file: str | None = Field(
        None, description="File that holds the key instead, read again once it is refused: for keys that are renewed"
    )
    headers: dict[str, _HeaderValue] = Field(
        {}, description="Further headers of every request, by name; none that holds a secret"
    )
    headers_env: dict[str, _Variable] = Field(
        {}, description="Further headers, by name, with the environment variable that holds each one's secret value"
    )
    query_env: dict[str, _Variable] = Field(
        {}, description="Secret parts of the address's query, by name, with the environment variable of each value"
    )
    concurrency: Positive = Field(64, description="Requests on the way at once")
    timeout_seconds: Rate = Field(120.0, description="How long one request may take")
    attempts: Positive = Field(6, description="Tries of one request before the endpoint counts as failed")
    max_wait_seconds: Rate = Field(60.0, description="Longest wait between two tries, Retry-After included")

    @model_validator(mode="after")
    def _headers_can_be_sent(self) -> Self:
        """Names that HTTP has, values of one line, and no secret in the settings, which go into files and reports."""
        names = [name.lower() for name in (*self.headers, *self.headers_env)]
        for key, given in (("headers", self.headers), ("headers_env", self.headers_env)):
            for name in given:
                if not _HEADER.fullmatch(name):
                    raise ValueError(f"{key}: '{name}' cannot be the name of a header")
                if name.lower() in _OWN_HEADERS:
                    raise ValueError(f"{key}: {name} is set by lorapar itself; leave it out")
                if names.count(name.lower()) > 1:
                    raise ValueError(f"{key}: {name} is there twice (case means nothing); keep one of them")
                if name.lower() == "authorization" and (self.api_key_env or self.api_key_file):
                    raise ValueError(f"{key}: {name} is what the key is sent in; keep one of the two")
        for name, value in self.headers.items():
            if _CREDENTIAL.search(name):
                raise ValueError(
                    f"headers: {name} looks like a secret, and settings are written into files and reports; put its "
                    "value into an environment variable and name that in headers_env"
                )
            if not value.isprintable() or not value.isascii():
                raise ValueError(f"headers: the value of {name} must be printable ASCII in one line")
        return self

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.api_key_env and self.api_key_file:
            raise ValueError("api_key_env and api_key_file exclude each other; give one of them")
        return self


class EndpointOptions(ConnectionOptions):
    """How an endpoint is asked; only where backend is openai."""

    extra_body: dict[str, Any] = Field(
        {}, description="Further fields of every request's body; null takes out one that lorapar would send"
    )
    max_tokens: Positive | None = Field(
        None, description="Most tokens of an answer, thinking included; absent: the label's, and more once cut off"
    )

    @model_validator(mode="after")
    def _fields_of_our_own(self) -> Self:
        try:
            json.dumps(self.extra_body, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError(
                "extra_body: it must be JSON, which has neither dates nor NaN nor infinity; write them as text"
            ) from None
        for name in ("messages", "prompt", "stream", "n"):
            if name in self.extra_body:
                raise ValueError(f"extra_body: {name} is lorapar's own; leave it out")
        return self


class TeacherConfig(Section):
    """One voter."""

    name: Name = Field(description="Name the teacher's votes are recorded under")
    backend: Literal["transformers", "vllm", "openai"] = Field(
        "transformers",
        description="What runs the teacher: transformers or vllm in this process, or an OpenAI-compatible endpoint",
    )
    model: str | None = Field(
        None, description="Hub name or local folder, at an endpoint the name it serves; absent: the base model itself"
    )
    revision: str | None = Field(
        None, description="Hub revision of the teacher; at an endpoint any text that changes when its weights do"
    )
    endpoint: Address | None = Field(
        None,
        description="Address of an OpenAI-compatible API, such as http://teacher:8000/v1, with the query that every "
        "request needs, if any; needs backend openai",
    )
    dtype: Dtype = Field(
        "auto", description="Number format of the teacher's weights, as model.dtype; not for endpoints"
    )
    batch_size: Positive = Field(16, description="Rows asked at once; only where backend is transformers")
    weight: Rate = Field(1.0, description="Weight of its vote in the majority")
    template: TeacherTemplate = Field(default_factory=TeacherTemplate, description="How it is asked")
    vllm: VllmOptions | None = Field(None, description="How its engine is started; needs backend vllm")
    openai: EndpointOptions | None = Field(None, description="How its endpoint is asked; needs backend openai")
    digest: str | None = Field(None, description="sha256 identity of its own model's weights; filled in by `plan`")

    @model_validator(mode="after")
    def _options_are_of_the_backend(self) -> Self:
        """An option that would do nothing is a mistake to hear about."""
        for option, backends in _BACKENDS_OF.items():
            given = getattr(self, option) not in (type(self).model_fields[option].default, _ONCE_DEFAULT.get(option))
            if given and self.backend not in backends:
                raise ValueError(
                    f"teacher '{self.name}': {option} does nothing with backend {self.backend}, only with "
                    f"{' and '.join(backends)}; leave it out or change the backend"
                )
        if self.backend == "openai":
            self._check_endpoint()
        return self

    def _check_endpoint(self) -> None:
        wrong = why_no_address(self.endpoint)
        if wrong is not None:
            raise ValueError(f"teacher '{self.name}': {wrong}")
        if self.model is None:
            raise ValueError(f"teacher '{self.name}': backend openai needs model, the name its endpoint serves")


def why_no_address(endpoint: str | None, who: str = "backend openai") -> str | None:
    """What is wrong with the address of an endpoint that `who` needs; None: nothing."""
    needed = f"{who} needs endpoint, the http address of an OpenAI-compatible API, such as http://teacher:8000/v1"
    try:
        parts = urlsplit(endpoint or "")
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if endpoint is None or not usable or any(character.isspace() for character in endpoint):
        schemeless = endpoint is not None and re.fullmatch(r"[\w.-]+(:\d+)?(/\S*)?", endpoint)
        return needed + (f"; write http:// or https:// before {endpoint}" if schemeless else "")
    if "@" in parts.netloc:
        return (
            "endpoint must not hold a user or password; name the key's environment variable in openai.api_key_env, or "
            "that of a whole Authorization header in openai.headers_env"
        )
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if _CREDENTIAL.search(name):
            return (
                f"'{name}' in the query of endpoint looks like a secret, and settings are written into files and "
                "reports; name its environment variable in openai.query_env"
            )
    return None


_BACKENDS_OF = {
    "dtype": ("transformers", "vllm"),
    "batch_size": ("transformers",),
    "vllm": ("vllm",),
    "openai": ("openai",),
    "endpoint": ("openai",),
}
_ONCE_DEFAULT = {"dtype": "bfloat16"}
"""Stands in the plans of earlier versions, also where it did nothing."""


Labels = Literal["votes", "data", "random"]
"""Where training rows have their labels from."""


class VotingConfig(Section):
    """How votes become labels."""

    labels: Labels = Field(
        "votes",
        description="Where training rows have their systems from: votes; data: as the data name them, votes where they "
        "do not; random: by chance, each as likely. The last two are controls for studies; rows that are evaluated "
        "have theirs as with votes",
    )
    role_play: bool = Field(True, description="Tell teachers to act as the target model (paper section 3.1)")
    quorum: Positive | None = Field(None, description="Teachers asked about every row; absent: a bare majority of them")
    min_teachers: Positive | None = Field(
        None, description="Go on without teachers that fail while so many are left; absent: none may fail"
    )
    calibrate: bool = Field(False, description="Subtract each teacher's bias, as measured on probe rows")
    probe_rows: Positive = Field(128, description="Rows that a teacher's bias is measured on")
    tie: str = Field(
        "system2",
        description="What a tied row becomes: a system's name, or hold_out. Of named systems: the default is the last, "
        "and where the one named here is not among the tied ones, the last of these",
    )
    min_agreement: Fraction = Field(0.0, description="Least share of the votes cast a label needs; 0: none")
    below_agreement: Literal["keep", "hold_out"] = Field("keep", description="What rows below min_agreement become")

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(self, handler(self), "labels")


class EditsConfig(Section):
    """Labels that a person has set; they overrule the vote."""

    source: Place | None = Field(
        None, description="CSV file of `lorapar votes export` with edited labels, a path or s3:// address"
    )
    digest: str | None = Field(None, description="sha256 of that file; filled in by `plan`")
