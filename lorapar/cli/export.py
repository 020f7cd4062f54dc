"""`lorapar export`: a published adapter for another server: a manifest, a model, a file, or an OCI artifact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorapar.cli.adapters import Where, open_registry, print_text
from lorapar.cli.ask import local_adapter, need_torch
from lorapar.cli.base import app, err, out, reporter
from lorapar.errors import BadInputError

if TYPE_CHECKING:
    from lorapar.serving.here import LocalAdapter

Base = Annotated[
    str | None,
    typer.Option(
        metavar="URI|FILE|MODEL",
        help="With --kserve where the base is: pvc://CLAIM/PATH, s3://…, hf://…; with --ollama its name there or "
        "GGUF file; with --gguf a GGUF file of it, to compare by llama.cpp.",
    ),
]
Gateway = Annotated[
    str | None,
    typer.Option(
        metavar="POOL", help="As an InferenceModelRewrite for this InferencePool: aliases, canary; REF is a NAME."
    ),
]
OtherBase = Annotated[
    bool, typer.Option("--other-base", help="With --kserve: another base than it was trained on is meant.")
]
_WITH_MODEL = ("--merged", "--gguf", "--ollama")


@app.command("export")
def export_command(  # noqa: PLR0913  -- an argument is an option of the command
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF|DIR", help="NAME, NAME@3, NAME@ALIAS; a PEFT folder with --merged, --gguf and --ollama."
        ),
    ],
    where: Where = None,
    base: Base = None,
    kserve: Annotated[bool, typer.Option("--kserve", help="As a KServe LLMInferenceService, in YAML.")] = False,
    gateway: Gateway = None,
    merged: Annotated[
        Path | None, typer.Option("--merged", help="As a plain model in this folder: base and adapter in one.")
    ] = None,
    gguf: Annotated[Path | None, typer.Option("--gguf", help="As a LoRA in this file, for llama.cpp.")] = None,
    ollama: Annotated[
        Path | None, typer.Option("--ollama", help="As a LoRA with a Modelfile in this folder; needs --base.")
    ] = None,
    oci: Annotated[
        str | None,
        typer.Option(metavar="HOST/REPO[:TAG]", help="Push it to a container registry; without a tag :VERSION."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="With --merged, --gguf, --ollama: a local copy of the base model.")
    ] = None,
    other_base: OtherBase = False,
) -> None:
    """Write a version for another server: a manifest, a plain model, a LoRA of llama.cpp or Ollama, an OCI artifact.

    Examples: `lorapar export NAME@production --kserve > service.yaml`, `lorapar export NAME@3 --gguf adapter.gguf`,
    `lorapar export NAME@3 --oci registry.example.com/team/adapter`
    """
    given = {
        "--kserve": kserve or None,
        "--gateway": gateway,
        "--merged": merged,
        "--gguf": gguf,
        "--ollama": ollama,
        "--oci": oci,
    }
    kinds = [name for name, value in given.items() if value is not None]
    if len(kinds) != 1:
        raise BadInputError(
            "export writes one format at a time; give one of --kserve, --gateway POOL, --merged DIR, --gguf FILE, "
            "--ollama DIR and --oci HOST/REPO"
        )
    _check_options(kinds[0], base, model, other_base=other_base)
    _check_has_version(kinds[0], ref)
    if merged is not None:
        _export_merged(ref, where, merged, model)
    elif gguf is not None:
        _export_gguf(ref, where, gguf, base, model)
    elif ollama is not None:
        _export_ollama(ref, where, ollama, str(base), model)
    elif oci is not None:
        _export_oci(ref, where, oci)
    else:
        _print_manifest(ref, where, gateway, base, other_base=other_base)


def _check_options(kind: str, base: str | None, model: Path | None, *, other_base: bool) -> None:
    if other_base and kind != "--kserve":
        raise BadInputError("--other-base is for --kserve")
    if base is not None and kind in ("--gateway", "--merged", "--oci"):
        instead = {
            "--merged": "with --merged name a local copy of the base with --model",
            "--gateway": "the servers behind a gateway have their base model already",
            "--oci": "what is pushed names its base model in its annotations",
        }
        raise BadInputError(f"--base is for --kserve, --gguf and --ollama; {instead[kind]}")
    if base is None and kind == "--ollama":
        raise BadInputError(
            "--ollama needs --base: the base model's name in Ollama, such as llama3.2:1b, or its GGUF file"
        )
    if model is not None and kind not in _WITH_MODEL:
        raise BadInputError(f"--model is for {', '.join(_WITH_MODEL)}; with --kserve say --base URI")


def _check_has_version(kind: str, ref: str) -> None:
    """What names versions cannot be written of a folder."""
    if kind not in _WITH_MODEL and "/" in ref:
        raise BadInputError(
            f"{ref}: a folder has no version; with {kind} name an adapter of a registry, as NAME@VERSION"
        )


def _print_manifest(ref: str, where: str | None, gateway: str | None, base: str | None, *, other_base: bool) -> None:
    import yaml

    from lorapar.serving import gateway_manifest, kserve_manifest
    from lorapar.serving.kserve import require_same_base

    registry = open_registry(where)
    if gateway is not None:
        manifest = gateway_manifest(registry, ref, gateway)
    else:
        version = registry.resolve(ref)
        manifest = kserve_manifest(registry, version, base)
        if not other_base and (note := require_same_base(registry, version, manifest)):
            err.print(note, markup=False, highlight=False, soft_wrap=True)
    text = yaml.safe_dump(manifest, sort_keys=False)
    out.print(text, markup=False, highlight=False, soft_wrap=True, end="")


@contextmanager
def _adapter_for_folder(
    kind: str, ref: str, where: str | None, folder: Path, model: Path | None
) -> Iterator[LocalAdapter]:
    """The adapter, once `folder` is one that may be made."""
    from lorapar.store import make_writable_folder, refuse_other_content, storage_errors

    need_torch(f"export {kind}")
    refuse_other_content(folder, f"{folder}: is not empty, and {kind} makes a folder; name a new one")
    if folder.exists() and not folder.is_dir():
        raise BadInputError(f"{folder}: is a file; name a folder to make")
    with storage_errors(folder), local_adapter(ref, where, model) as adapter:
        make_writable_folder(folder.parent)
        yield adapter


def _export_merged(ref: str, where: str | None, folder: Path, model: Path | None) -> None:
    from lorapar.serving.here import merge

    with _adapter_for_folder("--merged", ref, where, folder, model) as adapter:
        with reporter("export:") as progress:
            difference = merge(adapter, folder, progress)
        size = sum(path.stat().st_size for path in folder.iterdir())
    print_text(
        f"{folder}: {size / 1e6:.1f} MB in {adapter.model.dtype}; no logit differs from base with adapter by more than "
        f"{difference:.3g}"
    )


def _export_gguf(ref: str, where: str | None, file: Path, base: str | None, model: Path | None) -> None:
    from lorapar.serving.gguf_lora import write_gguf
    from lorapar.serving.llama_cpp import compare, require_llama_cpp
    from lorapar.store import make_writable_folder, storage_errors

    need_torch("export --gguf")
    if file.exists():
        raise BadInputError(f"{file}: is there already; name a new file")
    if base is not None:
        require_llama_cpp(Path(base))
    with storage_errors(file), local_adapter(ref, where, model) as adapter:
        make_writable_folder(file.parent)
        modules = write_gguf(adapter, file)
        print_text(f"{file}: {file.stat().st_size / 1e6:.1f} MB, LoRA on {modules} modules in float32")
        if base is None:
            return
        try:
            with reporter("export:") as progress:
                found = compare(adapter, file, Path(base), progress)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
    print_text(
        f"after {found.prompts} prompts llama.cpp's next-token distributions differ from those of PEFT by a mean KL of "
        f"{found.mean_kl:.3g} nats, of the base alone by {found.base_mean_kl:.3g}; the adapter itself moves them by "
        f"{found.effect_kl:.3g}"
    )


def _export_ollama(ref: str, where: str | None, folder: Path, base: str, model: Path | None) -> None:
    from lorapar.serving.ollama import checked_base, write_ollama

    checked_base(base)
    with (
        _adapter_for_folder("--ollama", ref, where, folder, model) as adapter,
        reporter("export:") as progress,
    ):
        written = write_ollama(adapter, folder, base, progress)
    template = "the chat template" if written.template else "no template (it is no plain one, so the base's own holds)"
    print_text(
        f"{folder}: LoRA on {written.modules} modules, and a Modelfile with {template} and {len(written.stops)} stop "
        f"texts; make the model with `ollama create NAME -f {folder}/Modelfile`"
    )


def _export_oci(ref: str, where: str | None, address: str) -> None:
    from lorapar.registry.oci import push_oci

    pushed = push_oci(open_registry(where), ref, address)
    state = "is at" if pushed.new else "is there already, nothing was changed:"
    print_text(f"{pushed.version} {state} {pushed.address} ({pushed.digest})")
