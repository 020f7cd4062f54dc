"""Ask a served model for a completion: `python check_completion.py ADDRESS MODEL`.

Prints the answer and which version gave it. The key, where the server wants one, is in LORAPAR_API_KEY.
"""

import json
import os
import sys
import urllib.error
import urllib.request

from waiting import Waiting, arguments

LOOK_AT = (
    "look at the log of the serving Deployment, and whether the NetworkPolicies let this pod through (a model on a CPU "
    "may need more than tests.timeoutSeconds)"
)


def complete(address: str, model: str) -> tuple[str, str]:
    """(text, version named by the server) of a short completion; an unanswered request raises."""
    body = json.dumps({"model": model, "prompt": "2 + 3 =", "max_tokens": 8, "temperature": 0}).encode()
    request = urllib.request.Request(
        f"{address}/v1/completions", data=body, headers={"Content-Type": "application/json"}
    )
    key = os.environ.get("LORAPAR_API_KEY")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=90) as answer:
        version = answer.headers.get("x-lorapar-adapter", "")
        parsed = json.load(answer)
    return parsed["choices"][0]["text"], version or parsed["model"]


def main() -> int:
    address, model = arguments(__doc__, 2)
    address = address.rstrip("/")
    try:
        with Waiting(f"{address}: {model}", LOOK_AT):
            text, version = complete(address, model)
    except urllib.error.HTTPError as error:
        print(f"{address}: {model}: {error.code}: {error.read(500).decode(errors='replace')}", file=sys.stderr)
        return 1
    except (OSError, ValueError, LookupError) as error:
        print(f"{address}: {model}: {error}", file=sys.stderr)
        return 1
    print(f"{address}: {version} answered {text!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
