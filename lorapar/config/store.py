"""Where runs share what they make: the section `store`."""

from typing import Literal

from pydantic import Field

from lorapar.config.base import Address, Section

Encryption = Literal["AES256", "aws:kms", "aws:kms:dsse"]
Acl = Literal["bucket-owner-full-control"]


class StoreConfig(Section):
    """Object storage in which finished stages and checkpoints are shared by runs; credentials are never settings."""

    address: Address | None = Field(
        None, description="`s3://BUCKET/PREFIX` or a folder; absent: what a run makes stays in its own folder"
    )
    encryption: Encryption | None = Field(
        None, description="Encryption that the bucket's policy asks for; holds for registry and mirrors too"
    )
    kms_key_id: str | None = Field(None, description="Key of `aws:kms`; absent: the bucket's or account's own")
    bucket_key: bool = Field(False, description="Let `aws:kms` use a key of the bucket, which asks KMS less often")
    requester_pays: bool = Field(False, description="Agree to pay for requests to a bucket that its requesters pay for")
    acl: Acl | None = Field(None, description="For a bucket of another account whose policy asks for it")
    expected_owner: str | None = Field(
        None, pattern=r"^\d{12}$", description="Account that every bucket must belong to, or requests are refused"
    )
    storage_class: str | None = Field(
        None, description="Storage class of what is written, such as `STANDARD_IA`; absent: the bucket's own"
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Tags of every object that is written, at most 10")
