"""A version as an OCI artifact in a container registry: `lorapar export NAME@3 --oci HOST/REPOSITORY`.

One manifest with an image's configuration and one layer, a tar with the adapter's files below `models/`. So it is at
once an artifact with a type of its own, an image that Kubernetes mounts as a volume, and a modelcar of KServe. Nothing
in it holds the time, so the same version is the same digest everywhere.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorapar.errors import BadInputError, IntegrityError
from lorapar.registry.lineage import LINEAGE_FILE
from lorapar.registry.oci_client import MANIFEST_TYPE, OciClient, parse_oci_name
from lorapar.registry.reference import parse_reference
from lorapar.registry.registry import Registry
from lorapar.registry.versions import Version
from lorapar.store import file_sha256, storage_errors

ARTIFACT_TYPE = "application/vnd.lorapar.adapter.v1"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
FOLDER = "models"
"""Where KServe's modelcars have their files."""
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class PushedImage:
    """What `push_oci` did."""

    version: Version
    address: str
    """With the tag."""
    digest: str
    """Of the manifest."""
    new: bool
    """False: the tag named this very content already, and nothing was changed."""


@dataclass(frozen=True)
class _Blob:
    kind: str
    digest: str
    size: int

    def described(self, **more: Any) -> dict[str, Any]:
        return {"mediaType": self.kind, "digest": self.digest, "size": self.size, **more}


def push_oci(registry: Registry, reference: str, address: str) -> PushedImage:
    """Pull a version, verified, and push it; without a tag it gets its number. Then all of it is asked for.

    A tag that names an earlier version is moved. Raises what `Registry.pull` raises; BadInputError for names that are
    none and for a tag that names something else than an adapter, UnreachableError where the registry is silent or
    refuses, IntegrityError where not everything arrived.
    """
    name = parse_oci_name(address)
    parse_reference(reference)
    with tempfile.TemporaryDirectory(prefix="lorapar-") as scratch, storage_errors(Path(scratch)):
        folder, layer = Path(scratch) / "adapter", Path(scratch) / "layer.tar"
        version = registry.pull(reference, folder)
        name = replace(name, tag=name.tag or str(version.number))
        _write_layer(folder, layer)
        tar = _Blob(LAYER_TYPE, f"sha256:{file_sha256(layer)}", layer.stat().st_size)
        config = _json({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": _rootfs(tar)})
        described = _Blob(CONFIG_TYPE, f"sha256:{hashlib.sha256(config).hexdigest()}", len(config))
        manifest = _json(_manifest(described, tar, _annotations(registry, version, folder)))
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        with OciClient(name) as client:
            before = client.find_manifest(str(name.tag))
            if before == manifest:
                return PushedImage(version, str(name), digest, new=False)
            _require_adapter(before, str(name))
            for blob, content in ((tar, layer), (described, config)):
                if not client.has_blob(blob.digest, blob.size):
                    client.push_blob(blob.digest, blob.size, lambda content=content: _chunks(content))  # type: ignore[misc]
            client.push_manifest(str(name.tag), manifest)
            _require_there(client, manifest, (tar, described))
    return PushedImage(version, str(name), digest, new=True)


def _write_layer(folder: Path, file: Path) -> None:
    """A tar of the files, the same bytes on every machine and at any time."""
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
        place = tarfile.TarInfo(FOLDER)
        place.type, place.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(place)
        for path in sorted(folder.rglob("*")):
            entry = tarfile.TarInfo(f"{FOLDER}/{path.relative_to(folder).as_posix()}")
            if path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
                continue
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as opened:
                tar.addfile(entry, opened)


def _rootfs(layer: _Blob) -> dict[str, Any]:
    return {"type": "layers", "diff_ids": [layer.digest]}


def _manifest(config: _Blob, layer: _Blob, annotations: dict[str, str]) -> dict[str, Any]:
    titled = layer.described(annotations={"org.opencontainers.image.title": f"{FOLDER}.tar"})
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": config.described(),
        "layers": [titled],
        "annotations": annotations,
    }


def _annotations(registry: Registry, version: Version, folder: Path) -> dict[str, str]:
    """What it is and where it comes from: names and digests, so that the registry's own page shows them."""
    found = {
        "org.opencontainers.image.title": version.name,
        "org.opencontainers.image.version": str(version.number),
        "lorapar.io/adapter": str(version),
        "lorapar.io/digest": version.digest,
    }
    if (folder / LINEAGE_FILE).is_file():
        lineage = registry.read_json_file(version, LINEAGE_FILE)
        base, files = lineage.get("base") or {}, lineage.get("files") or {}
        found |= {f"lorapar.io/base-{key}": str(base[key]) for key in ("name", "revision", "digest") if base.get(key)}
        found |= {f"lorapar.io/sha256-{name}": str(digest) for name, digest in files.items()}
        for key in ("data", "labels", "partition", "training"):
            digest = (lineage.get(key) or {}).get("digest")
            found |= {f"lorapar.io/{key}-digest": str(digest)} if digest else {}
        for key, inner in (("parent", "adapter"), ("compacted", "version")):
            if lineage.get(key):
                found[f"lorapar.io/{key}"] = f"{lineage[key].get(inner)} {lineage[key].get('digest')}"
    return found


def _require_adapter(before: bytes | None, name: str) -> None:
    """Raise BadInputError where a tag names an image or artifact that no push of an adapter has made."""
    if before is None:
        return
    try:
        kind = json.loads(before).get("artifactType")
    except (ValueError, AttributeError):
        kind = None
    if kind != ARTIFACT_TYPE:
        raise BadInputError(f"--oci {name}: this tag names something that is no adapter of lorapar; give another tag")


def _require_there(client: OciClient, manifest: bytes, blobs: tuple[_Blob, ...]) -> None:
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    lost = [blob.digest for blob in blobs if not client.has_blob(blob.digest, blob.size)]
    if lost or client.find_manifest(digest) != manifest:
        raise IntegrityError(
            f"{client.name}: {lost[0] if lost else digest} is not in the registry as it was pushed; push again"
        )


def _chunks(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            yield chunk


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
