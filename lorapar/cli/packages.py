"""The package that a command hands to Kubeflow: which images are in it, where they come from, and saying so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.cli.base import err, out
from lorapar.errors import BadInputError
from lorapar.kubeflow.tasks import IMAGES, default_reference, is_pinned, named, references

if TYPE_CHECKING:
    from lorapar.kubeflow.package import Package
    from lorapar.kubeflow.server import Server


@dataclass(frozen=True)
class Wanted:
    """What the options of a command say of its package."""

    images: Sequence[str]
    registry: str | None
    placement: Path | None
    require_digests: bool = False
    no_cache: bool = False

    def package(self) -> Package:
        """The package by itself: images that are not named are the shipped ones."""
        return self._built(references(self.registry, self.images), apart=False)

    def check(self, values: Mapping[str, Any] | None = None) -> None:
        """Refuse what is wrong before anything is asked or sent; raises BadInputError.

        `values`: the parameters of the run, where there is one; several nodes have to be able to train it.
        """
        if self.placement is not None:
            asked = self._built(references(None, ()), apart=False, loose=True).asked
            if values is not None:
                from lorapar.kubeflow.checks import check_nodes
                from lorapar.kubeflow.parameters import run_config

                check_nodes(run_config(values), asked, values.get("store"))
        given = named(self.registry, self.images)
        loose = [image for image in given.values() if not is_pinned(image)]
        if self.require_digests and loose:
            raise BadInputError(
                f"--require-digests: {', '.join(loose)} is not pinned; give --image NAME=...@sha256:DIGEST"
            )

    def package_for(self, server: Server, what: str) -> Package:
        """The package for a server, and a line that says its images. `what` it is for: `run`, `schedule`, `study`.

        Images that nobody names are those of the newest version there that names all of them, which one that names all
        becomes. A package in which only some are named, or nothing is cached, is nobody else's: it goes into a pipeline
        of its own.
        """
        given = named(self.registry, self.images)
        whole = len(given) == len(IMAGES)
        version, there = _newest(server)
        images = references(None, ()) | there | given
        apart = self.no_cache or (not whole and any(there.get(name) != image for name, image in given.items()))
        package = self._built(images, apart=apart)
        own = whole and all(image != shipped for shipped, image in images.items())
        package.is_to_be_newest = own and not apart and bool(there) and images != there
        _print_images(given, images, version, f", for this {what} only" if apart else "")
        warn_of_tags(package)
        return package

    def _built(self, images: Mapping[str, str], *, apart: bool, loose: bool = False) -> Package:
        from lorapar.kubeflow.package import OWN_PIPELINE, PIPELINE_NAME, build_package
        from lorapar.kubeflow.placement import read_placement

        placed = read_placement(self.placement) if self.placement is not None else None
        return build_package(
            images,
            placed,
            require_digests=self.require_digests and not loose,
            cached=not self.no_cache,
            pipeline_name=OWN_PIPELINE if apart else PIPELINE_NAME,
        )


def warn_of_tags(package: Package) -> None:
    """Say which images are named by a tag."""
    if package.unpinned:
        err.print_line(
            f"lorapar: {', '.join(package.unpinned)}: named by a tag, which can be moved under Kubeflow's cache; pin "
            "with --image NAME=...@sha256:DIGEST",
            "yellow",
        )


def _newest(server: Server) -> tuple[str, dict[str, str]]:
    """Name and images of the newest version of this lorapar that names all of them; two empty ones without any."""
    from lorapar import __version__
    from lorapar.kubeflow.package import images_of

    for version, uploaded in server.packages(f"{__version__}-"):
        found = images_of(uploaded)
        if found:
            return version, found
    return "", {}


def _print_images(given: Mapping[str, str], images: Mapping[str, str], version: str, only: str) -> None:
    """One line: every image, and where it comes from."""
    own = _listed(images, [name for name in images if name in given])
    others = _listed(images, [name for name in images if name not in given])
    rest = f"as in version {version}: {others}" if version else f"as shipped: {others}"
    if not own:
        line = f"images {rest}"
    elif others:
        line = f"images as named{only}: {own}; the others {rest}"
    else:
        line = f"images as named{only}: {own}"
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _listed(images: Mapping[str, str], names: Sequence[str]) -> str:
    short = {default_reference(image): image for image in IMAGES}
    return ", ".join(f"{short[name]}={images[name]}" for name in names)
