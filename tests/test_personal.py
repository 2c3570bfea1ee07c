"""Personal data: what is planted is found, ordinary numbers stay, and nothing else of a text is touched."""

import json
import random
import re
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.personal import KINDS, scrub

SENTENCES = {
    "email": ("Write to {x} for details.", "Contact: {x}", "({x})", "Anna Berg <{x}>, editor", "mail {x}; thanks", "{x}."),
    "phone": ("Call {x} today.", "Tel.: {x}", "You can reach us at {x}.", "Our office ({x}) is open.", "{x}", "Fax {x}."),
    "ip": ("The host {x} did not answer.", "Posted from {x} yesterday.", "ip={x} status=200", "{x} - - GET /", "({x})", "{x}."),
    "card": ("Card number {x}, expires soon.", "Paid with {x}.", "{x}", "VISA: {x}", "my card is {x} and", "({x})"),
}  # fmt: skip
PHONES = (
    "+1 2## 555 ####", "+1-3##-555-####", "+1 (4##) 555-####", "+12125#####1", "(2##) 555-####", "(2##)555-####",
    "3##-555-####", "4##.555.####", "1-800-###-####", "+44 20 7### ####", "+44 (0)20 7### ####", "020 7### ####",
    "07### 9#####", "01632 96####", "+49 30 1#######", "+49 (0)171 1######", "0049 30 1#######", "030 1######",
    "030/1######", "0171-1######", "(030) 1### ####", "089 / 1### ###", "+33 1 4# ## ## ##", "06 7# ## 4# 1#",
    "01.4#.##.##.1#", "+34 91# ### ###", "91# ## ## ##", "+39 06 4### ####", "06 4### ####", "+41 44 6## ## ##",
    "044 6## ## ##", "+43 1 58#####", "+31 20 6######", "020-6######", "+46 8-6## ### ##", "+47 22 ## ## ##",
    "+48 22 6## ## ##", "+7 (495) 1##-##-##", "8 (495) 1##-##-##", "+55 11 9####-####", "(11) 9####-####",
    "+91 98### #####", "98### #####", "+81 3-1###-####", "03-1###-####", "090-1###-####", "+86 138 #### ####",
    "138-####-####", "010-6#######", "+61 2 9### ####", "(02) 9### ####", "04## ### ###", "+82 10-1###-####",
    "+52 55 1### ####", "+90 212 6## ## ##", "+971 50 1## ####", "+234 803 1## ####",
)  # fmt: skip
CARDS = (
    ("4", 16),
    ("51", 16),
    ("2221", 16),
    ("34", 15),
    ("37", 15),
    ("6011", 16),
    ("36", 14),
    ("3530", 16),
    ("62", 16),
)


def filled(shape, rng):
    return re.sub("#", lambda _: str(rng.randint(0, 9)), shape)


def card(rng):
    prefix, length = rng.choice(CARDS)
    body = prefix + "".join(rng.choices(string.digits, k=length - len(prefix) - 1))
    total = sum(sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(reversed(body)))
    number = body + str(-total % 10)
    groups = {16: (4, 4, 4, 4), 15: (4, 6, 5), 14: (4, 6, 4)}[length]
    separator = rng.choice(("", " ", "-"))
    cuts = [sum(groups[:i]) for i in range(len(groups) + 1)]
    return separator.join(number[a:b] for a, b in zip(cuts, cuts[1:], strict=False))


def email(rng):
    name = rng.choice(
        ("anna.berg", "j_doe", "o'neil", "max+news", "info", "x1", "Jürgen.Weiß", "a.b-c", "SALES", "77seven")
    )
    domain = rng.choice(
        ("mail.example", "example.com", "dept.uni-köln.de", "web.co.uk", "a1.io", "EXAMPLE.ORG", "firma.museum")
    )
    written = rng.choice(("{n}@{d}", "{n}@{d}", "{n}@{d}", "{n} [at] {d}", "{n}(at){d}"))
    return written.format(n=name + str(rng.randint(0, 99)), d=domain)


def address(rng):
    if rng.random() < 0.6:
        return ".".join(str(part) for part in (rng.randint(1, 223), *(rng.randint(0, 255) for _ in range(3))))
    groups = [f"{rng.randint(1, 65535):x}" for _ in range(8)]
    written = rng.choice(
        (groups, ["2001", "db8", "", groups[3]], ["fe80", "", *groups[4:]], ["2a02", *groups[1:4], "", groups[5]])
    )
    return ":".join(written)


def planted(kind, count=2000):
    """Texts with one item each, the item, and the text without it."""
    rng = random.Random(kind)
    make = {"email": email, "ip": address, "card": card, "phone": lambda rng: filled(rng.choice(PHONES), rng)}[kind]
    for _ in range(count):
        sentence, item = rng.choice(SENTENCES[kind]), make(rng)
        yield sentence.format(x=item), item, sentence.format(x=f"<{kind}>")


ORDINARY = (
    "on 2#.0#.19##", "at 1#:#4 on 0#/2#/20##", "20##-0#-1#", "20##-1#-0#T1#:2#:3#Z", "in 18##-19##",
    "from 19## to 20##", "since 1 May 19##", "the years 19##, 19## and 20##", "2#-1#-20## 1#:3#", "1#.0#.20## 0#:1#",
    "20##/0#/2#", "for $#,###.##", "€ #.###.###,##", "#9.99 USD", "1 #00 000 kr", "12 ### ### inhabitants",
    "#,###,### people", "ISBN 978-3-16-1####0-0", "ISBN 0-19-85####-1", "ISBN: 978031240####", "version 1.#.#",
    "v2.#.1#.#", "version 10.0.1904#.1###", "Chrome/96.0.4664.1##", "4#.7###, -7#.00##", "+40.71##, -74.00##",
    "4#° 2#' 1#\" N", "timestamp 17########", "17###########", "won 3-#", "by 21-1#, 21-1#", "6-4, 3-6, 7-#",
    "order 4##-#######-#######", "order no. 3##-###-####", "No. 0###########", "#7+#8=##5", "1###+2###=3###",
    "12345 * ### = ######", "2^##", "#.####e-0#", "pages 1###-1###", "Nature 4## (19##) 12##-13##",
    "vol. 3 (12) 1230-1244", "§ 3.2.1.#", "section 1#.2.1.#", "1# 2# 3# 4# 5#", "0.#2 0.#3 0.#4", "1##.2 3##.4 #1.9",
    "450 512 1024 2048", "1 2 3 4 5 6 7 8 9 10", "drew 03 07 12 2# 3#", "#2 %", "-#2.5 °C", "10:1#:2#",
    "00:1A:2B:3C:4D:5E", "ratio 1:2:3:4:5:6:7:8", "std::vector<int>", "127.0.0.1", "255.255.255.0", "4#0 x 8#0",
    "1920x1080", "ZIP 9####-####", "#####-1234", "12##-13", "route 66-##", "id 8f14e45f-ceea-467a-9575-#########abc",
    "DE89 3704 0044 0532 0130 ##", "doi:10.1038/s41586-0##-0####-#", "arXiv:21##.0####", "f(#) = #", "icon@2x.png",
    "lodash@4.17.##", "@handle##", "a @ b", "#####", "1e#", "F-16, B-52, Boeing 7#7-8##", "RFC 28##", "1/#2",
    "(19##)", "the 19##-## season", "+#5 %", "+1#", "(+#)", "-###", "3.14159265##", "0.00012####", "1,000,000,0##",
    "#00,000 km", "12-inch",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_planted_data_is_found_whole(kind):
    found = [(scrub(text)[0] == wanted, text, scrub(text)) for text, _, wanted in planted(kind)]
    missed = [entry[1:] for entry in found if not entry[0]]
    assert len(missed) <= 0.01 * len(found), missed[:20]


def test_ordinary_numbers_and_dates_stay():
    rng = random.Random(0)
    frames = ("It was {x} then.", "{x}", "({x})", "Values: {x}; more", "Seen {x}, as before.")
    texts = [rng.choice(frames).format(x=filled(shape, rng)) for shape in ORDINARY for _ in range(40)]
    wrong = [(text, scrub(text)[0]) for text in texts if scrub(text)[0] != text]
    assert len(wrong) <= 0.01 * len(texts), (len(wrong), len(texts), sorted({w for _, w in wrong})[:5], wrong[:60:3])


def test_real_text_is_left_alone(shared_data):
    text = (shared_data / "text" / "wikitext2-valid.txt").read_text(encoding="utf-8")
    cleaned, counts = scrub(text)
    assert len(re.findall(r"\d+", text)) > 5_000
    assert sum(counts.values()) <= 3, re.findall(r".{40}<(?:email|phone|ip|card)>.{20}", cleaned)
    with (shared_data / "conversations" / "train.jsonl").open(encoding="utf-8") as file:
        said = [turn["content"] for line in file for turn in json.loads(line)["messages"]]
    changed = sum(scrub(turn)[0] != turn for turn in said)
    assert changed <= 0.01 * len(said)


def test_kinds_that_were_not_asked_for_stay():
    text = "joe@mail.example, 212-555-0123, 203.0.113.77, 4111 1111 1111 1111"
    assert scrub(text)[0] == "<email>, <phone>, <ip>, <card>"
    assert scrub(text, ["phone"]) == ("joe@mail.example, <phone>, 203.0.113.77, 4111 1111 1111 1111", {"phone": 1})
    with pytest.raises(ValueError, match="unknown kinds of personal data.*name"):
        scrub(text, ["name"])


def test_a_card_number_needs_its_checksum_and_a_network():
    assert scrub("4111 1111 1111 1111")[1]["card"] == 1
    assert scrub("4111 1111 1111 1112")[1]["card"] == 0
    assert scrub("9111 1111 1111 1116")[1]["card"] == 0


def test_other_scripts_digits_and_dashes_count():
    assert scrub("電話 ０３−１２３４−５６７８")[0] == "電話 <phone>"
    assert scrub("Tel. +49\u00a030\u2011123456")[0] == "Tel. <phone>"


ADVERSARIAL = (
    "1" * 200_000, "1 " * 100_000, "1-" * 100_000, "(" * 200_000, "a@" * 100_000, "a." * 100_000 + "@", "@" * 200_000,
    ":" * 200_000, "1:" * 100_000, "::" * 100_000, "1.1.1.1" * 30_000, "4111 " * 40_000, "+1 " * 60_000,
    "0 / " * 50_000, "(1) " * 50_000, "a@a." + "a." * 100_000, "555-0123 " * 20_000, "tel " * 50_000,
    "(0) / 1" * 30_000, "[at]" * 50_000, "a [ at ] " * 20_000,
)  # fmt: skip


@pytest.mark.parametrize("text", ADVERSARIAL, ids=lambda text: repr(text[:9]))
def test_time_grows_with_the_length_alone(text):
    def seconds(part):
        began = time.process_time()
        scrub(part)
        return time.process_time() - began

    short = min(seconds(text[: len(text) // 8]) for _ in range(2))
    assert seconds(text) <= 20 * short + 0.2  # quadratic growth would be 64 times


DIGITS_AND_SIGNS = st.text(alphabet="0123456789 +-()./:@abtel,\n", max_size=80)
PIECES = st.lists(
    st.one_of(
        st.sampled_from(["+49 30 1234567", "212-555-0123", "98765 43210", "203.0.113.9", "4111 1111 1111 1111", "joe@x.example",
                         "030 1234567", "2001:db8::1", "2019", "order 12", "call ", "1.2.3.4", " / ", "(030) 12345"]),
        st.sampled_from([" ", "-", ", ", ".", "/", ":", "", "\n", "(", ")", "+", "1", " 22 "]),
    ), max_size=12,
).map("".join)  # fmt: skip


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.one_of(DIGITS_AND_SIGNS, PIECES, st.text(max_size=80)))
def test_a_second_pass_finds_nothing_and_the_rest_is_untouched(text):
    cleaned, counts = scrub(text)
    assert scrub(cleaned)[0] == cleaned
    parts = re.split("(<(?:email|phone|ip|card)>)", cleaned)
    pattern = "".join("(?s:.+?)" if part[:1] == "<" and part[-1:] == ">" else re.escape(part) for part in parts)
    assert re.fullmatch(pattern, text)
    assert sum(counts.values()) >= cleaned.count("<phone>") - text.count("<phone>")


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Nd"], exclude_characters="@＠"), max_size=200))
def test_text_without_digits_and_at_signs_is_unchanged(text):
    if not re.search(r"[\[({] ?(?:at|ät) ?[\])}]", text, re.IGNORECASE):
        assert scrub(text) == (text, dict.fromkeys(KINDS, 0))
