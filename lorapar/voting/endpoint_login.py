"""Who asks an endpoint: the key and other headers, and what is secret in its query, all from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote_plus

from lorapar.config import EndpointOptions
from lorapar.errors import BadInputError
from lorapar.redaction import remember_secret


class Login:
    """What every request carries to be let in; each value is blanked wherever something is said or written.

    Raises BadInputError where a variable or the key's file has nothing in it.
    """

    def __init__(self, endpoint: str, options: EndpointOptions, environment: Mapping[str, str]) -> None:
        self._endpoint = endpoint
        self._file = Path(options.api_key_file) if options.api_key_file is not None else None
        self._headers = dict(options.headers)
        for name, variable in options.headers_env.items():
            self._headers[name] = self._from(environment, variable, f"the header {name}", "headers_env")
        self.query = {
            name: self._from(environment, variable, f"{name} in the query", "query_env")
            for name, variable in options.query_env.items()
        }
        """Names and secret values that the query of every request has besides the address's own."""
        self._key: str | None = None
        if options.api_key_env is not None:
            self._key = _bare(self._from(environment, options.api_key_env, "the key", "api_key_env"))
        elif self._file is not None:
            self._key = self._read(self._file)

    def headers(self) -> dict[str, str]:
        """The headers of a request that is sent now."""
        key = self._key or ""
        return {**self._headers, **({"Authorization": f"Bearer {key}"} if key else {})}

    def renewed(self, refused: Mapping[str, str]) -> bool:
        """Whether another key is there than in the headers that were refused: its file is read again."""
        if self._file is not None:
            self._key = self._read(self._file)
        return self.headers() != refused

    def _read(self, file: Path) -> str:
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "it is not text"
            raise BadInputError(f"openai.api_key_file: {file} cannot be read ({said})") from None
        return _bare(self._checked(key, f"openai.api_key_file: {file}"))

    def _from(self, environment: Mapping[str, str], variable: str, what: str, option: str) -> str:
        value = environment.get(variable, "").strip()
        if not value:
            raise BadInputError(
                f"the environment variable {variable}, which holds {what} for {self._endpoint}, is not set; set it, or "
                f"leave openai.{option} out where none is needed"
            )
        return self._checked(value, f"the environment variable {variable}")

    def _checked(self, value: str, where: str) -> str:
        if not value or not value.isascii() or not value.isprintable():
            raise BadInputError(f"{where} must hold one line of printable ASCII to be sent; put the value there again")
        remember_secret(value, quote_plus(value))
        return value


def _bare(key: str) -> str:
    """A key without what people copy with it: quotes, which `docker --env-file` keeps, and `Bearer` of the header."""
    quoted = len(key) > 1 and key[0] == key[-1] and key[0] in "\"'"
    key = key[1:-1].strip() if quoted else key
    scheme, _, rest = key.partition(" ")
    key = rest.strip() if scheme.casefold() == "bearer" else key
    remember_secret(key, quote_plus(key))
    return key
