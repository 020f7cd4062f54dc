"""An answer and its tests in two processes, of which only the tests' can say that they passed.

The answer's process runs the answer and then serves calls: the tests' process asks it, over a pipe, for a name, a call
or an attribute, and gets back plain values (numbers, texts, lists, dicts, dates and the like) or the number of an
object that stays there. Nothing of the answer is ever imported, unpickled or compared in the tests' process, so it
cannot exit, print or patch its way to a pass, nor bring an object that equals everything, nor end a loop of the tests
by an exception. An object that claims to contain everything is asked for two random values, which finds plain ones and
not every one. Names of built-in functions are never taken from the answer.

Both programs are text, because each is run by a bare interpreter that can import nothing of lorapar.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from lorapar.data.tests_column import free_names

ANSWER_FILE, TESTS_FILE = "answer.py", "tests.py"


@dataclass(frozen=True)
class CodeUnderTest:
    """A program and the tests that it has to pass, both Python source."""

    source: str
    """The answer."""
    tests: str


_VALUES = '''
import builtins, json, sys
sys.set_int_max_str_digits(0)
MORE = {
    "range": ("builtins", lambda one: (one.start, one.stop, one.step)),
    "Fraction": ("fractions", lambda one: (one.numerator, one.denominator)),
    "Decimal": ("decimal", lambda one: (str(one),)),
    "deque": ("collections", lambda one: (list(one), one.maxlen)),
    "date": ("datetime", lambda one: (one.year, one.month, one.day)),
    "datetime": ("datetime", lambda one: (
        one.year, one.month, one.day, one.hour, one.minute, one.second, one.microsecond
    )),
    "timedelta": ("datetime", lambda one: (one.days, one.seconds, one.microseconds)),
}

class Values:
    """Plain values as JSON; of anything else, only a number that stands for it."""

    def __init__(self, hold, fetch):
        self._hold, self._fetch = hold, fetch

    def pack(self, value):
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": list(value)}
        for name, kind in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)):
            if isinstance(value, kind):
                return {name: [self.pack(one) for one in kind.__iter__(value)]}
        if isinstance(value, dict):
            items = dict.items(value)
            return {"dict": [[self.pack(key), self.pack(inner)] for key, inner in items]}
        name = type(value).__name__
        module, parts = MORE.get(name, ("", None))
        if type(value) is getattr(sys.modules.get(module), name, None) and getattr(value, "tzinfo", None) is None:
            return {name: [self.pack(one) for one in parts(value)]}
        return {"object": self._hold(value)}

    def unpack(self, value):
        if not isinstance(value, dict):
            return value
        ((name, inner),) = value.items()
        if name == "object":
            return self._fetch(inner)
        if name == "complex":
            return complex(*inner)
        if name == "bytes":
            return bytes(inner)
        if name == "dict":
            return {self.unpack(key): self.unpack(one) for key, one in inner}
        if name in MORE:
            return getattr(__import__(MORE[name][0]), name)(*map(self.unpack, inner))
        return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[name](map(self.unpack, inner))
'''

ANSWER_PROGRAM = f'''
import os
{_VALUES}

def serve():
    calls, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(3), "w", encoding="utf-8")
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.close(3)
    held = []

    def hold(value):
        held.append(value)
        return len(held) - 1

    values = Values(hold, lambda number: held[number])
    module = type(sys)("answer")
    module.__file__ = "{ANSWER_FILE}"
    sys.modules["answer"] = module  # where dataclasses and typing look for what a class names
    namespace = module.__dict__

    def say(value):
        replies.write(value + "\\n")
        replies.flush()

    def failed(error):
        known = next(kind for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind)
        return json.dumps({{"error": known.__name__, "text": str(error)[:300]}})

    try:
        with open("{ANSWER_FILE}", encoding="utf-8") as file:
            source = file.read()
        exec(compile(source, "{ANSWER_FILE}", "exec"), namespace)
    except Exception as error:
        problem = failed(error)
        for line in calls:
            say(problem)
        return
    for line in calls:
        try:
            action, arguments = json.loads(line)
            arguments = values.unpack(arguments)
            if action == "name":
                found = namespace[arguments[0]]
            elif action == "call":
                found = arguments[0](*arguments[1], **arguments[2])
            elif action == "attribute":
                found = getattr(arguments[0], arguments[1])
            elif action == "iterate":
                found = iter(arguments[0])
            elif action == "next":
                found = next(arguments[0])
            elif action == "length":
                found = len(arguments[0])
            elif action == "item":
                found = arguments[0][arguments[1]]
            elif action == "text":
                found = str(arguments[0])
            reply = json.dumps({{"value": values.pack(found)}})
        except Exception as error:
            reply = failed(error)
        say(reply)

serve()
'''

TESTS_PROGRAM = f'''
import os
word = os.read(0, 64)
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
import symtable
{_VALUES}

{inspect.getsource(free_names)}
def tests():
    calls, replies = os.fdopen(4, "w", encoding="utf-8"), os.fdopen(5, encoding="utf-8", errors="replace")

    def ask(action, *arguments):
        packed = json.dumps([action, values.pack(list(arguments))])
        try:
            calls.write(packed + "\\n")
            calls.flush()
            line = replies.readline()
        except OSError:
            line = ""
        if not line:
            raise RuntimeError("the answer's process has ended")
        reply = json.loads(line)
        if "error" in reply:
            kind = getattr(builtins, str(reply["error"]), None)
            kind = kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError
            if issubclass(kind, (StopIteration, StopAsyncIteration)) and action != "next":
                kind = RuntimeError  # it would end the loop of a test without a word
            try:
                error = kind(str(reply["text"]))
            except TypeError:
                error = RuntimeError(f"{{reply['error']}}: {{reply['text']}}")
            raise error
        return values.unpack(reply["value"])

    class Remote:
        """An object in the answer's process; equal to itself alone, and neither true nor false."""

        def __init__(self, number):
            self.__dict__["_number"] = int(number)

        def __call__(self, *arguments, **named):
            return ask("call", self, list(arguments), named)

        def __setattr__(self, name, value):
            ask("attribute", self, "__setattr__")(name, value)

        def __setitem__(self, key, value):
            ask("attribute", self, "__setitem__")(key, value)

        def __delitem__(self, key):
            ask("attribute", self, "__delitem__")(key)

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return ask("attribute", self, name)

        def __iter__(self):
            walk = ask("iterate", self)
            while True:
                try:
                    value = ask("next", walk)
                except StopIteration:
                    return
                yield value

        def __next__(self):
            return ask("next", self)

        def __len__(self):
            return ask("length", self)

        def __getitem__(self, key):
            return ask("item", self, key)

        def __contains__(self, value):
            try:
                asked = ask("attribute", self, "__contains__")
            except AttributeError:
                return any(one == value for one in self)
            if not asked(value):
                return False
            for strange in (os.urandom(8).hex(), -0.5 - int.from_bytes(os.urandom(9), "big")):
                try:
                    everything = asked(strange)
                except Exception:
                    continue
                if everything:
                    raise TypeError("the answer gave an object that says of everything that it is in it")
            return True

        def __str__(self):
            return ask("text", self)

        def __bool__(self):
            raise TypeError("the answer gave an object where the tests ask for true or false")

    def hold(value):
        if isinstance(value, Remote):
            return value._number
        raise TypeError(f"tests can hand plain values to the answer, and no {{type(value).__name__}}")

    values = Values(hold, Remote)
    with open("{TESTS_FILE}", encoding="utf-8") as file:
        source = file.read()
    namespace = {{"__name__": "__main__"}}
    for name in sorted(free_names(source)):
        if not hasattr(builtins, name):
            try:
                namespace[name] = ask("name", name)
            except KeyError:
                raise NameError(f"the answer defines no {{name}}") from None
    exec(compile(source, "{TESTS_FILE}", "exec"), namespace)

builtins.exit = builtins.quit = sys.exit  # which only a whole interpreter has
tests()
os.write(3, word)
'''
