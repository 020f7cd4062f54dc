"""Say whom a script of this chart waits for: after 5 s, then every 30 s, and at the end what to look at.

A network that drops packets lets a connection, or the look-up of a name, hang for minutes, so a thread of its own
speaks.
"""

import os
import signal
import sys
import threading
import time

try:
    from lorapar.errors import BadInputError
    from lorapar.network import network_cause, trust_authorities
except ModuleNotFoundError:  # tests/kind/serve-check.sh asks from a machine that need not have lorapar
    BadInputError = ValueError

    def network_cause(*_: object) -> None:
        """Nothing more is known."""

    def trust_authorities() -> None:
        """What Python itself trusts."""


FIRST_SECONDS = 5.0
EVERY_SECONDS = 30.0


def arguments(text: str, required: int, most: int | None = None) -> list[str]:
    """The words of the command line; --help prints `text`, and what does not fit is refused in one line."""
    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print(text.strip())
        sys.exit(0)
    name = os.path.basename(sys.argv[0])
    option = next((word for word in given if word.startswith("-")), None)
    if option or not required <= len(given) <= (most or required):
        said = f"no option is called {option}" if option else f"{len(given)} arguments do not fit"
        print(f"{name}: {said}; --help says what there is", file=sys.stderr)
        sys.exit(2)
    return given


def limit_seconds(default: float) -> float:
    """How long to wait before giving up: what the pod's variable says, so that the end comes before its deadline."""
    return float(os.environ.get("LORAPAR_WAIT_SECONDS") or default)


def in_words(error: Exception, address: str) -> str:
    """What went wrong, and where it was a certificate or a proxy, which and what to do."""
    return network_cause(error, address, "the ConfigMap of caBundle") or " ".join(str(error).split())


def s3_endpoint() -> str:
    """Where boto3 asks."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com"


class Waiting:
    """`with Waiting(WHOM, LOOK_AT) as waiting:` around whatever may hang; `note` keeps what went wrong last.

    A pod that is stopped meanwhile says so, with LOOK_AT, and ends at once: a process that is the first one of its
    container would not even hear SIGTERM otherwise.
    """

    def __init__(self, whom: str, look_at: str, state: str = "no answer") -> None:
        self.whom, self.look_at, self.state = whom, look_at, state
        self.began = time.monotonic()
        self.last = ""
        self.over = threading.Event()

    def __enter__(self) -> "Waiting":
        try:
            trust_authorities()
        except BadInputError as error:
            print(f"{self.whom}: {error}", file=sys.stderr)
            sys.exit(int(error.exit_code))
        signal.signal(signal.SIGTERM, self.stopped)
        threading.Thread(target=self.speak, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @property
    def seconds(self) -> float:
        """Since the last answer."""
        return time.monotonic() - self.began

    def note(self, reason: object) -> None:
        """What an attempt ended with."""
        self.last = " ".join(str(reason).split())

    def answered(self) -> None:
        """There was an answer: the time counts anew."""
        self.began, self.last = time.monotonic(), ""

    def given_up(self) -> str:
        """The last line."""
        return f"{self.state} in {self.seconds:.0f} s{self.reason()}; {self.look_at}"

    def reason(self) -> str:
        return f" ({self.last})" if self.last else ""

    def speak(self) -> None:
        pause = FIRST_SECONDS
        while not self.over.wait(pause):
            pause = EVERY_SECONDS
            if self.seconds >= FIRST_SECONDS:
                said = f"{self.whom}: {self.state} for {self.seconds:.0f} s{self.reason()}; still trying"
                print(said, file=sys.stderr, flush=True)

    def stopped(self, *_: object) -> None:
        os.write(2, f"{self.whom}: stopped: {self.given_up()}\n".encode())
        os._exit(143)
