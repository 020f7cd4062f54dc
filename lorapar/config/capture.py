"""What a server keeps of its traffic (`serving.capture`), and how a run turns that into rows (`data.capture`)."""

from datetime import date, datetime
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from lorapar.config.base import Address, Name, Place, Positive, Section, Share
from lorapar.config.voting import Address as HttpAddress
from lorapar.config.voting import EndpointOptions, why_no_address

BuiltInRule = Literal["secret", "email", "iban", "card", "ip", "phone"]
BUILT_IN_RULES: tuple[BuiltInRule, ...] = get_args(BuiltInRule)
"""Names of the rules of redaction that need no setting, in the order they are applied."""
RuleName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


def _moment(text: str) -> str:
    try:
        written = datetime.strptime(text, "%Y%m%dT%H%M%S.%fZ").strftime("%Y%m%dT%H%M%S.%fZ")
    except ValueError:
        written = ""
    if text != written:
        raise ValueError("must be a time as in the names of parts, such as 20261130T120000.000000Z")
    return text


Moment = Annotated[str, AfterValidator(_moment)]
PartToken = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
_SERVED = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[a-z][a-z0-9._-]*)?$"


class CaptureConfig(Section):
    """What a server keeps of requests and answers: LORAPAR_SERVING_CAPTURE, `serving.capture` of the chart."""

    name: Name = Field(description="Name of the capture; `data.source: capture:NAME` reads it")
    share: Share = Field(0.1, description="Share of the requests that is kept, decided by a digest of the request id")
    adapters: tuple[Annotated[str, StringConstraints(pattern=_SERVED)], ...] = Field(
        (), description="Adapters whose requests are kept, NAME or NAME@ALIAS; empty: all that are served"
    )
    address: Address | None = Field(
        None, description="Store that they are written to, s3://BUCKET/PREFIX or a folder; absent: the registry's"
    )
    consent: Literal["opt_out", "opt_in"] = Field(
        "opt_out",
        description="opt_out: a request with the header `x-lorapar-capture: no` is not kept; opt_in: only one with "
        "`yes` is",
    )
    retention_days: Positive = Field(30, description="Days after which what was kept is deleted")
    built_in_rules: tuple[BuiltInRule, ...] = Field(
        BUILT_IN_RULES, description="Rules of redaction that are applied beside your own"
    )
    rules: dict[RuleName, str] = Field(
        {}, description="Your own rules, by name: regular expressions; what one finds becomes [NAME]"
    )
    keep_user: bool = Field(False, description="Keep the request's field `user` too")
    flush_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        300.0, description="Time between two writes; what has not been written is lost with a server that is killed"
    )

    @model_validator(mode="after")
    def _rules_have_names_of_their_own(self) -> Self:
        for name in self.rules:
            if name in BUILT_IN_RULES:
                raise ValueError(f"rules: '{name}' is the name of a built-in rule; choose another one")
        return self


class CaptureTeacher(Section):
    """A model behind an OpenAI-compatible API that writes the answers that production lacks."""

    endpoint: HttpAddress = Field(description="Address of the API, such as http://teacher:8000/v1")
    model: str = Field(description="The name its endpoint serves")
    revision: str | None = Field(None, description="Any text that changes when its weights do: answers are then new")
    instruction: str | None = Field(
        None, description="System message it is asked with, instead of the one that the request had"
    )
    openai: EndpointOptions | None = Field(None, description="How its endpoint is asked")

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if wrong := why_no_address(self.endpoint):
            raise ValueError(wrong)
        return self


class CaptureSource(Section):
    """How what a server kept becomes rows; only where a source is `capture:NAME`."""

    address: Address | None = Field(
        None, description="Store that the server writes to; absent: registry.address, as for the server"
    )
    since: date | None = Field(None, description="First day, in UTC; absent: the earliest that is there")
    until: date | None = Field(None, description="Last day, in UTC; absent: the latest that is there")
    last_days: Positive | None = Field(
        None, description="Read this many days, today the last of them, instead of since"
    )
    reference: Literal["feedback", "teacher", "file"] = Field(
        "feedback",
        description="Where answers come from beside feedback that corrects or praises the one given. feedback: from "
        "nowhere, other rows are left out; teacher: it writes them; file: a person has, in a sheet",
    )
    teacher: CaptureTeacher | None = Field(None, description="The teacher; needs reference teacher")
    file: Place | None = Field(
        None, description="Sheet of `lorapar capture export` with answers filled in; needs reference file"
    )
    near_duplicates: Share = Field(
        0.9,
        description="Questions at least this similar (Jaccard of 5-character pieces) with equal numbers are one row",
    )
    cluster_similarity: Share = Field(0.5, description="Questions at least this similar are of one cluster")
    max_per_cluster: Positive | None = Field(20, description="Most rows of one cluster; null: all")
    max_redactions: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Rows in which more was redacted than this are left out; null: none are"
    )
    snapshot: Moment | None = Field(
        None, description="Time of the last part that is read, as in the parts' names; filled in by `plan`"
    )
    recent: tuple[PartToken, ...] | None = Field(
        None,
        description="Ends of the names of the parts of the hour before `snapshot`: servers' clocks differ, and others "
        "may come later; filled in by `plan`",
    )

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        for option, value in (("teacher", self.teacher), ("file", self.file)):
            if self.reference == option and value is None:
                raise ValueError(f"{option}: is missing, and reference is {option}")
            if self.reference != option and value is not None:
                raise ValueError(
                    f"{option}: does nothing where reference is {self.reference}; set reference to {option}"
                )
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError(f"since is {self.since} and until {self.until}, so no day could be read")
        if self.last_days is not None and (self.since or self.until or self.snapshot):
            raise ValueError("last_days does not go with since, until or snapshot; keep one of them")
        if self.recent is not None and self.snapshot is None:
            raise ValueError("recent: does nothing without snapshot; leave it out")
        return self
