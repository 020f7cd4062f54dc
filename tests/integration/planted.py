"""Secrets planted where lorapar could trip over them, and a search for them in everything it leaves behind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

HUB_TOKEN = "hf_plantedbythetests0123456789"
LARGEST_BYTES = 200_000_000


def found_in_folder(folder: Path, secrets: Iterable[str]) -> list[str]:
    """`file: secret` for each planted secret in a file below the folder, file names included."""
    hits = []
    for path in folder.rglob("*"):
        data = path.read_bytes() if path.is_file() and path.stat().st_size < LARGEST_BYTES else b""
        hits += [f"{path}: {secret}" for secret in secrets if secret.encode() in data or secret in path.name]
    return hits


def found_in_bucket(client: Any, bucket: str, secrets: Iterable[str]) -> list[str]:
    """The same for every object of a bucket, its metadata included."""
    hits = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", ()):
            answer = client.get_object(Bucket=bucket, Key=entry["Key"])
            data = answer["Body"].read() + repr(answer["Metadata"]).encode() + entry["Key"].encode()
            hits += [f"{entry['Key']}: {secret}" for secret in secrets if secret.encode() in data]
    return hits


def found_in_text(text: str, secrets: Iterable[str]) -> list[str]:
    """The same for what a command printed."""
    return [secret for secret in secrets if secret in text]
