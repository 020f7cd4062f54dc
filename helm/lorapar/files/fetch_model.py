"""Bring a base model that vLLM cannot fetch by itself: `python fetch_model.py NAME LINK`.

NAME is an address in the object store or a built-in model. Its files go into lorapar's cache, where a restart finds
them again, and LINK leads there: the server's --model.
"""

import os
import sys
from pathlib import Path

from waiting import Waiting, arguments

from lorapar.basemodel import model_folder
from lorapar.config import ModelConfig
from lorapar.errors import LoraparError

LOOK_AT = "look whether the object store is reached from here (objectStore.endpoint, networkPolicy.objectStore)"


def main() -> int:
    name, path = arguments(__doc__, 2)
    link = Path(path)
    try:
        with Waiting(name, LOOK_AT, "not here"):
            folder = model_folder(ModelConfig(name=name))
    except LoraparError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    scratch = link.with_name(f".{link.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(folder)
    os.replace(scratch, link)
    print(f"{name}: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
