"""The last step of an image's build: import what the image is for. `python check_image.py client|trainer|vllm`

An image that lacks a library would otherwise be found out by the first stage of somebody's run. Ends with 1 and one
line that says what to set.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from importlib.metadata import PackageNotFoundError, version

NEEDED = {
    "client": ["lorapar.cli", "boto3", "yaml", "lorapar.ui.server"],
    "trainer": [
        "torch",
        "transformers:AutoModelForCausalLM",
        "trl:SFTTrainer",
        "trl:GRPOTrainer",
        "peft:LoraConfig",
        "kubernetes.client:CoreV1Api",
        "kubeflow_trainer_api",
    ],
    "vllm": ["torch", "transformers:AutoTokenizer", "vllm:SamplingParams", "lorapar.serving.vllm_plugin:register"],
}
ANOTHER_BUILD = (
    "This build of torch is not for CPUs alone, and the libraries that it needs are not in the image's lock. Set "
    "TORCH_INDEX to the address of an index with CPU builds, or PIP_FIND_LINKS to a folder with the wheel of one; or "
    "set TORCH_LIBRARIES=yes, which installs the libraries that this build names (several GB)"
)
SYSTEM = "A library of the system is missing: name its Debian package in the build argument PACKAGES"


def load(name: str) -> None:
    """Import a module, or what is named after the colon."""
    module, _, attribute = name.partition(":")
    found = importlib.import_module(module)
    if attribute:
        getattr(found, attribute)


def advice(error: BaseException) -> str:
    """What to set, by what the loader says; nothing where it is a fault of the lock or of ours."""
    said = " ".join(str(one) for one in (error, error.__cause__, error.__context__))
    if any(word in said for word in ("libcu", "libnv", "libnccl", "libtorch", "librocm", "libamdhip", "libsycl")):
        return ANOTHER_BUILD
    return SYSTEM if "cannot open shared object file" in said else ""


def stages_of(image: str) -> list[str]:
    """Modules of the stages that the pipeline runs in this image."""
    from lorapar.kubeflow.tasks import image_of
    from lorapar.stages.contract import STAGE_NAMES, stage_module

    return [stage_module(stage).__name__ for stage in STAGE_NAMES if image_of(stage) == image]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", choices=NEEDED)
    image = parser.parse_args().image
    stages: list[str] = []
    for name in NEEDED[image]:
        try:
            load(name)
        except Exception as error:
            said = " ".join(str(error).split()).rstrip(".")
            print(f"the image {image} cannot import {name}: {said}. {advice(error)}".rstrip(), file=sys.stderr)
            return 1
    for name in (stages := stages_of(image)):
        load(name)
    try:
        torch = f", torch {version('torch')}"
    except PackageNotFoundError:
        torch = ""
    print(f"{image}: {', '.join(stage.rpartition('.')[2] for stage in stages)}{torch}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
