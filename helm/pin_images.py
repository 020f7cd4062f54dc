"""Write where a release's images lie, and their digests, into values.yaml before the chart is packaged.

    python helm/pin_images.py ghcr.io/OWNER/lorapar DIGESTS

DIGESTS is a folder with one file an image (client, trainer, vllm) that holds `sha256:…`. Run by the release workflow;
the files in the repository keep their tags.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

CHART = Path(__file__).parent / "lorapar"
IMAGES = ("client", "trainer", "vllm")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def pinned(text: str, image: str, address: str, digest: str) -> str:
    """values.yaml with one image's registry, repository and digest replaced; its comments stay."""
    if not DIGEST.fullmatch(digest):
        raise SystemExit(f"{image}: {digest!r} is no digest")
    registry, _, repository = address.partition("/")
    block = re.search(rf"^  {image}:\n(?:    .*\n)+", text, re.MULTILINE)
    if not block:
        raise SystemExit(f"values.yaml: no images.{image}")
    changed = block.group()
    for key, value in (("registry", registry), ("repository", f"{repository}/{image}"), ("digest", digest)):
        changed, count = re.subn(rf"^    {key}: .*$", f"    {key}: {value}", changed, flags=re.MULTILINE)
        if count != 1:
            raise SystemExit(f"values.yaml: images.{image}.{key} is there {count} times")
    return text[: block.start()] + changed + text[block.end() :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    address, folder = given.address.rstrip("/"), given.folder
    values = CHART / "values.yaml"
    text = values.read_text(encoding="utf-8")
    for image in IMAGES:
        text = pinned(text, image, address, (folder / image).read_text(encoding="utf-8").strip())
    values.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
