"""What every document that `--json` prints is made from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """A JSON object of which every key is there, `null` where it does not apply."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
