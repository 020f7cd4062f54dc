"""What the rules of redaction find, what they leave, and that nothing planted gets through."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapar.capture import Rules
from lorapar.capture.rules import SlowRuleError
from lorapar.errors import BadInputError

RULES = Rules()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("write to anna.lena+news@post.example.co.uk.", "write to [EMAIL]."),
        ("straße@exämple.de", "[EMAIL]"),
        ("call +49 (0)30 1234-5678 or 030/1234567", "call [PHONE] or [PHONE]"),
        ("(555) 123-4567", "[PHONE]"),
        ("0049 30 1234567, please", "[PHONE], please"),
        ("card 4111 1111 1111 1111, 378282246310005", "card [CARD], [CARD]"),
        ("4111-1111-1111-1112 fails Luhn's check", "4111-1111-1111-1112 fails Luhn's check"),
        ("DE89 3704 0044 0532 0130 00 is mine", "[IBAN] is mine"),
        ("gb82west12345698765432", "[IBAN]"),
        ("ES91 2100 0418 4502 0005 1332 then some", "[IBAN] then some"),
        ("DE88 3704 ABCD EFGH IJKL MN fails ISO 7064's", "DE88 3704 ABCD EFGH IJKL MN fails ISO 7064's"),
        ("in 20 years the company grew to many", "in 20 years the company grew to many"),
        ("from 192.168.0.1 and 2001:db8::8a2e:370:7334, ::ffff:1.2.3.4", "from [IP] and [IP], [IP]"),
        ("std::vector, x :: Int, 12:30:45, 999.1.1.1", "std::vector, x :: Int, 12:30:45, 999.1.1.1"),
        ("Authorization: Bearer abcdefghijklmnop", "Authorization: Bearer [SECRET]"),
        ("my password: hunter22, and AKIAABCDEFGHIJKLMNOP", "my password: [SECRET], and [SECRET]"),
        ("https://user:pw123@host/x", "https://[SECRET]@host/x"),
        ("hf_abcdefghijklmnopqrst ghp_0123456789abcdef0123", "[SECRET] [SECRET]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "[SECRET]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln", "[SECRET]"),
        ("7 4111 1111 1111 1111 12", "7 [CARD] 12"),
        ("AB12 DE89 3704 0044 0532 0130 00", "AB12 [IBAN]"),
        ("123 + 456789 on 2023-10-05 and 05.10.2024", "123 + 456789 on 2023-10-05 and 05.10.2024"),
        # Languages that put no blank between a word and a number, and their words for a password.
        ("电话+86 138 1234 5679谢谢", "电话[PHONE]谢谢"),
        ("地址192.168.0.1です、2001:db8::8a2e:370:7334と", "地址[IP]です、[IP]と"),
        ("密钥hf_abcdefghijklmnopqrst谢谢 AKIAABCDEFGHIJKLMNOPです", "密钥[SECRET]谢谢 [SECRET]です"),
        ("卡号4111111111111111谢谢 IBANはDE89370400440532013000です", "卡号[CARD]谢谢 IBANは[IBAN]です"),
        ("رقم ٠٥٥٥١٢٣٤٥٦٧", "رقم [PHONE]"),
        ("密码\uff1ahunter22 비밀번호: geheim12", "密码\uff1a[SECRET] 비밀번호: [SECRET]"),
        ("Mein Passwort: geheim12, mot de passe : abc12345", "Mein Passwort: [SECRET], mot de passe : [SECRET]"),
        ("ПАРОЛЬ: geheim12 contrasen\u0303a=secreto1", "ПАРОЛЬ: [SECRET] contrasen\u0303a=[SECRET]"),
        ('DB_PASSWORD=hunter22 {"api key": "abcdef"}', 'DB_PASSWORD=[SECRET] {"api key": "[SECRET]"}'),
        ("palabra clave: libertad", "palabra clave: libertad"),
        ("3.14159265 and 1,000,000", "3.14159265 and 1,000,000"),
    ],
)  # fmt: skip
def test_what_is_found_and_what_is_left(text: str, clean: str) -> None:
    redacted, found = RULES.redact(text)
    assert redacted == clean
    assert bool(found) == (text != clean)


def luhn_number(digits: list[int]) -> str:
    """The digits with the check digit that makes them a card's number."""
    total = sum(sum(divmod(2 * one, 10)) if place % 2 == 0 else one for place, one in enumerate(reversed(digits)))
    return "".join(map(str, [*digits, -total % 10]))


def german_iban(account: int) -> str:
    """An IBAN of any account of one bank, with its check digits (ISO 7064, mod 97)."""
    rest = f"37040044{account:010d}"
    return f"DE{98 - int(rest + '131400') % 97:02d}{rest}"


names = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=20).filter(lambda one: one[0].isalnum())
cards = st.lists(st.integers(0, 9), min_size=14, max_size=14).filter(any).map(lambda rest: luhn_number([4, *rest]))
secrets = st.one_of(
    names.map(lambda name: f"{name}@example.org"),
    cards,
    st.integers(0, 10**10 - 1).map(german_iban),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str).filter(lambda one: one != "::"),
    st.integers(10**9, 10**10 - 1).map(lambda number: f"+49 {number // 10**7} {number % 10**7:07d}"),
    st.text("abcdefABCDEF0123456789", min_size=24, max_size=40).map(lambda key: f"sk-{key}"),
)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), secrets, st.text(max_size=60))
def test_no_planted_value_gets_through_whatever_stands_around_it(before: str, secret: str, behind: str) -> None:
    redacted, found = RULES.redact(f"{before} {secret}\n{behind}")
    assert secret not in redacted
    assert sum(found.values()) >= 1


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_what_was_redacted_once_is_not_redacted_again(text: str) -> None:
    once, _ = RULES.redact(text)
    assert RULES.redact(once)[0] == once


def test_own_rules_come_first_and_are_named_in_the_text() -> None:
    rules = Rules(own={"case_number": r"\bC-\d{3} \d{4}\b"})
    assert rules.redact("case C-555 1234, call 030 555 1234")[0] == "case [CASE_NUMBER], call [PHONE]"


def test_only_the_rules_that_are_named_are_applied() -> None:
    assert Rules(("email",)).redact("a@b.example at 10.0.0.1")[0] == "[EMAIL] at 10.0.0.1"


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [("(a", "not a regular expression"), ("x*", "finds the empty text"), ("(?i", "not a regular")],
)
def test_wrong_rule_is_reported_by_its_name(pattern: str, complaint: str) -> None:
    with pytest.raises(BadInputError, match=rf"^serving\.capture\.rules\.mine: .*{complaint}"):
        Rules(own={"mine": pattern})


def test_rule_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorapar.capture.rules.LONGEST_SECONDS", 0.05)
    rules = Rules((), {"slow": "(a|aa)+$"})
    began = time.monotonic()
    with pytest.raises(SlowRuleError, match="'slow' took longer"):
        rules.redact("a" * 60 + "b")
    assert time.monotonic() - began < 30
