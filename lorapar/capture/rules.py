"""Redaction of texts before they are written: rules for what has a form, such as addresses and numbers, and your own.

Rules find forms, not meaning: names, postal addresses and what a person tells of themselves stay. A library that looks
for those by a model (presidio) would bring spaCy and its model of hundreds of megabytes into the process that serves;
scrubadub has had no release since 2023. What the rules here need, Luhn's and ISO 7064's checks, is a few lines each.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from lorapar.config.capture import BUILT_IN_RULES, CaptureConfig
from lorapar.errors import BadInputError
from lorapar.redaction import CREDENTIAL_SHAPES

LONGEST_SECONDS = 1.0
"""How long one rule may look at one text; a text that takes longer is not kept at all."""

_SECRETS = (
    r"()-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    r"\b()(?:ghp|gho|ghu|ghs|ghr|github_pat|glpat|npm|pypi|dop_v1|shpat|sk_live|rk_live|sk_test)[_-][A-Za-z0-9_-]{16,}",
    r"\b()xox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"\b()AIza[A-Za-z0-9_-]{30,}",
    r"\b()eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
)
_PASSWORDS = (
    r"(?i)(?<![A-Za-z0-9])((?:pass(?:word|wd|phrase|code)|api[_ -]?key|access[_ -]?key|secret(?:[_ -]?key)?"
    r"|(?:auth|access|refresh)[_-]?token|pwd|passwort|kennwort|mot[_ ]de[_ ]passe|mdp|contrase(?:ñ|n\u0303|n)a"
    r"|(?<!palabra )clave|senha|palavra-passe|wachtwoord|lösenord|adgangskode|passord|salasana|hasło|heslo|jelszó"
    r"|parolă|[şs]ifre|пароль|κωδικός|סיסמה|كلمة (?:ال)?(?:سر|مرور)|پسورد|पासवर्ड|รหัสผ่าน|mật khẩu|kata sandi"
    r"|密[码碼]|口令|パスワード|暗証番号|비밀번호|암호)"
    r"[\"']?\s{0,3}[:=\uff1a\uff1d]\s{0,3}[\"']?)[^\s\"',;]{4,}"
)
"""Keys and tokens by their prefixes, and what is behind words such as `password:`; what group 1 holds stays."""
_EMAIL = r"(?<![\w.+%-])[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"
_IBAN = r"(?i)(?<![A-Z0-9])[A-Z]{2}[ -]?\d{2}(?:[ -]?[A-Z0-9]){11,30}(?![A-Z0-9])"
_CARD = r"(?<![\d])\d(?:[ -]?\d){12,18}(?!\d)"
_IP = (
    r"(?<![A-Za-z0-9_.:])(?:\d{1,3}(?:\.\d{1,3}){3}(?![A-Za-z0-9_:]|\.\d)"
    r"|(?=[0-9A-Fa-f:.]{0,44}[0-9A-Fa-f])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{1,4})?(?![A-Za-z0-9_:]))"
)
_NULL = "[0\u0660\u06f0]"
_PHONE = (
    rf"(?<![A-Za-z0-9_+\d])(?:\+\d|\(?{_NULL}{{1,2}}(?!{_NULL})\d|\(?\d{{3}}\)?[ .-]\d{{3}}[ .-](?=\d{{4}}(?!\d)))"
    r"(?:[ ./()-]{0,2}\d){4,16}"
)
"""Not every language puts a blank or other mark between a word and a number, so only Latin letters belong to one."""
_DAY = re.compile(r"\d\d([./-])\d\d\1\d{4}")
_IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 "
        "EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 "
        "KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 "
        "PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 "
        "UA29 VA22 VG24 XK20 YE30",
    )
}
"""Characters of an IBAN by country (SWIFT's IBAN registry)."""


@dataclass(frozen=True)
class _Rule:
    """One pattern, and how much of what it finds is meant."""

    name: str
    pattern: Any
    meant: Callable[[str], int] | None = None
    """Characters from the beginning of a finding that are redacted; 0: it is something else. None: all of it."""
    keeps_group: bool = False
    """Group 1 stays: it says what the rest is."""


class SlowRuleError(Exception):
    """A rule has looked at a text for too long; the message names it."""


class Rules:
    """The rules of a capture; raises BadInputError where one of your own is not a regular expression or finds nothing.

    Patterns are those of the package `regex`, which lets go of the interpreter while it searches and can be stopped:
    a rule that does not end with some text holds no request up.
    """

    def __init__(self, built_in: tuple[str, ...] = BUILT_IN_RULES, own: Mapping[str, str] | None = None) -> None:
        self._rules = [_own_rule(name, pattern) for name, pattern in (own or {}).items()]
        self._rules += [rule for name in BUILT_IN_RULES if name in built_in for rule in _built_in_rules(name)]

    @classmethod
    def of(cls, config: CaptureConfig) -> Rules:
        """Those that the settings name."""
        return cls(config.built_in_rules, config.rules)

    def redact(self, text: str) -> tuple[str, Counter[str]]:
        """The text with `[EMAIL]` and the like in the place of what was found, and how often by rule.

        Your own rules come first, so that a built-in one takes nothing of what they look for. Raises SlowRuleError.
        """
        found: Counter[str] = Counter()
        for rule in self._rules:
            text = _applied(rule, text, found)
        return text, found


def regex_is_there() -> bool:
    """Whether the package is here: a server has it, a client that only prints a server's command may not."""
    return find_spec("regex") is not None


def _applied(rule: _Rule, text: str, found: Counter[str]) -> str:
    """The text behind one rule. A finding that is something else hides none that begins within it."""
    overlapped, parts, end = rule.meant is not None, [], 0
    try:
        for match in rule.pattern.finditer(text, overlapped=overlapped, timeout=LONGEST_SECONDS):
            length = rule.meant(match[0]) if rule.meant is not None else len(match[0])
            if match.start() < end or not length:
                continue
            found[rule.name] += 1
            kept = match[1] if rule.keeps_group else ""
            parts += [text[end : match.start()], kept, f"[{rule.name.upper()}]"]
            end = match.start() + length
    except TimeoutError:
        raise SlowRuleError(f"the rule '{rule.name}' took longer than {LONGEST_SECONDS:g} s for one text") from None
    return "".join([*parts, text[end:]])


def _own_rule(name: str, pattern: str) -> _Rule:
    import regex

    where = f"serving.capture.rules.{name}"
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise BadInputError(f"{where}: '{pattern}' is not a regular expression: {error}; fix it") from None
    try:
        empty = compiled.search("", timeout=LONGEST_SECONDS)
    except TimeoutError:
        raise BadInputError(f"{where}: '{pattern}' does not end; write it simpler") from None
    if empty is not None:
        raise BadInputError(f"{where}: '{pattern}' finds the empty text, so it would blank everything; fix it")
    return _Rule(name, compiled)


def _built_in_rules(name: str) -> list[_Rule]:
    import regex

    if name == "secret":
        patterns = [*(shape.pattern for shape, _ in CREDENTIAL_SHAPES), *_SECRETS]
        # As ASCII, so that a letter of another script beside a key does not hide where it begins and ends.
        rules = [_Rule(name, regex.compile(pattern, regex.ASCII), keeps_group=True) for pattern in patterns]
        return [*rules, _Rule(name, regex.compile(_PASSWORDS), keeps_group=True)]
    pattern, meant = _BUILT_IN[name]
    return [_Rule(name, regex.compile(pattern), meant)]


def _iban(text: str) -> int:
    """An IBAN's characters from the beginning of the text: its country's number of them, with the check right."""
    wanted, seen, digits = _IBAN_LENGTHS.get(text[:2].upper(), 0), 0, ""
    for place, character in enumerate(text, 1):
        if character.isalnum():
            seen, digits = seen + 1, digits + character.upper()
        if seen == wanted:
            turned = digits[4:] + digits[:4]
            right = turned.isascii() and int("".join(str(int(one, 36)) for one in turned)) % 97 == 1
            ends = not text[place : place + 1].isalnum()
            return place if right and ends else 0
    return 0


def _card(text: str) -> int:
    """13 to 19 digits from the beginning of the text that pass Luhn's check (ISO/IEC 7812-1), as many as do."""
    places = [place for place, one in enumerate(text, 1) if one.isdigit()]
    for count in range(min(len(places), 19), 12, -1):
        end = places[count - 1]
        digits = [int(one) for one in text[:end] if one.isdigit()]
        doubled = [sum(divmod(2 * one, 10)) if place % 2 else one for place, one in enumerate(reversed(digits))]
        if not text[end : end + 1].isdigit() and sum(doubled) % 10 == 0 and any(digits):
            return end
    return 0


def _ip(text: str) -> int:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return 0
    return len(text)


def _phone(text: str) -> int:
    """7 to 15 digits (ITU-T E.164) that are no day such as 05.10.2026; of more, the first 15."""
    places = [place for place, one in enumerate(text, 1) if one.isdigit()]
    return places[:15][-1] if len(places) >= 7 and not _DAY.fullmatch(text) else 0


_BUILT_IN: dict[str, tuple[str, Callable[[str], int] | None]] = {
    "email": (_EMAIL, None),
    "iban": (_IBAN, _iban),
    "card": (_CARD, _card),
    "ip": (_IP, _ip),
    "phone": (_PHONE, _phone),
}
