"""What every section of the settings is made from: strict models and the bounds that values keep to.

The files of sections do without `from __future__ import annotations`: pydantic would compile and evaluate each
annotation's text, a twentieth of the time until `lorapar submit` reports a mistake.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from lorapar.addresses import check_slashes, parse_address
from lorapar.errors import BadInputError

SYSTEMS: tuple[str, str] = ("system1", "system2")
"""The systems of a run that names no others."""


def _address(text: str) -> str:
    try:
        parse_address(text)
    except BadInputError as error:
        raise ValueError(str(error)) from None
    return text


def _place(text: str) -> str:
    try:
        check_slashes(text)
    except BadInputError as error:
        raise ValueError(str(error)) from None
    return text


Address = Annotated[str, AfterValidator(_address)]
"""`s3://BUCKET/PREFIX` or a local folder."""
Place = Annotated[str, AfterValidator(_place)]
"""A path, an address, or the name of something elsewhere; the code that reads it says what else it may be."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""`auto` goes by what the processor computes fast; `plan` turns it into one of the others."""
Comparison = Literal["exact", "math", "text"]
"""How an answer is compared with its reference; see `lorapar.comparing`."""
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]


class Section(BaseModel):
    """A group of settings; unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


def merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Values with overrides, at every depth: of a mapping only the keys that are named again change."""
    found = dict(values)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


def unless_default(section: BaseModel, values: dict[str, Any], *names: str) -> dict[str, Any]:
    """A section's written values without those fields that have their default: so digests stay as they were.

    For settings that came after digests were made of the others.
    """
    for name in names:
        if getattr(section, name) == type(section).model_fields[name].get_default(call_default_factory=True):
            values.pop(name, None)
    return values
