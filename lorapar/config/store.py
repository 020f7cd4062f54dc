"""Where runs share what they make: the section `store`."""

from __future__ import annotations

from pydantic import Field

from lorapar.config.base import Address, Section


class StoreConfig(Section):
    """Object storage in which finished stages and checkpoints are shared by runs; credentials are never settings."""

    address: Address | None = Field(
        None, description="`s3://BUCKET/PREFIX` or a folder; absent: what a run makes stays in its own folder"
    )
