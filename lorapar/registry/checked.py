"""Objects of a registry are data from outside: each is checked when it is read, and a damaged one is named."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lorapar.errors import IntegrityError

M = TypeVar("M", bound=BaseModel)


def checked(kind: type[M], data: bytes, address: str, what: str, remedy: str) -> M:
    """An object's bytes as a model; raises IntegrityError with its address, what is wrong and what to do.

    Args:
        what: what it should be, with its article, such as `a manifest`.
        remedy: what a person can do about a damaged one.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{field}: " if field else ""
        raise IntegrityError(f"{address}: not {what} ({where}{first['msg']}); {remedy}") from None
