"""Personal data in texts: e-mail addresses, telephone, IP and card numbers, replaced by typed placeholders.

What has a form of its own (an address with @, a checksum, an international prefix) is found anywhere; a telephone number in
a national form is known by its grouping, or by a word before it. Dates, prices, ISBNs, versions and ranges stay.
FineWeb (Penedo et al. 2024) replaces e-mail and public IP addresses; telephone and card numbers are ours. Google's
libphonenumber (`phonenumbers`, PhoneNumberMatcher) was measured and left out (docs/LOG.md).
"""

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

KINDS = ("email", "phone", "ip", "card")

Span = tuple[int, int]


def scrub(text: str, kinds: Sequence[str] = KINDS) -> tuple[str, dict[str, int]]:
    """Replace personal data by `<email>`, `<phone>`, `<ip>` and `<card>`.

    Linear in the length of the text: every pattern is bounded or deterministic. What was replaced once is left alone by a
    second pass.

    Args:
        text: Any text.
        kinds: Which of `KINDS` to replace.

    Returns:
        The text, and how many were replaced of each of `kinds`.

    Raises:
        ValueError: A kind is unknown.
    """
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise ValueError(f"unknown kinds of personal data {sorted(unknown)}; there are {', '.join(KINDS)}")
    counts = dict.fromkeys(kinds, 0)
    plain = text if text.isascii() else _FOREIGN.sub(lambda match: _PLAIN[match[0]], text)
    for kind in ("email", "ip", "card", "phone"):  # what is surer goes first
        if kind not in counts:
            continue
        spans = list(_FINDERS[kind](plain))
        if spans:
            same = plain is text
            text = _replace(text, spans, f"<{kind}>")
            plain = text if same else _replace(plain, spans, f"<{kind}>")
            counts[kind] = len(spans)
    return text, counts


def _replace(text: str, spans: list[Span], placeholder: str) -> str:
    parts, position = [], 0
    for start, end in spans:
        parts += [text[position:start], placeholder]
        position = end
    return "".join([*parts, text[position:]])


def _plain_characters() -> dict[str, str]:
    """Other scripts' digits, spaces and dashes as ASCII, one for one, so that places in a text stay what they are."""
    others = map(chr, range(128, 1 << 16))
    table = {other: str(unicodedata.digit(other)) for other in others if other.isdecimal()}
    table |= dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u202f\u3000", " ")
    table |= dict.fromkeys("\u00ad\u2010\u2011\u2012\u2013\u2212\uff0d", "-")
    return table | dict(zip("＋（）．／＠：", "+()./@:", strict=True))


_PLAIN = _plain_characters()
_FOREIGN = re.compile(f"[{''.join(_PLAIN)}]")

# E-mail addresses: found from their @ outwards, so that a text without one costs a single scan.
_AT = re.compile(r"@|[\[({] ?(?:at|ät) ?[\])}] ?", re.IGNORECASE)
_LOCAL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,65}")  # read backwards
_DOT = r"(?:\.| ?[\[({] ?(?:dot|punkt|point|punto) ?[\])}] ?)"
_DOMAIN = re.compile(
    rf"[^\W_][\w-]{{0,62}}(?:{_DOT}[^\W_][\w-]{{0,62}}){{0,8}}{_DOT}(?:xn--[a-z0-9-]{{2,58}}|[^\W\d_]{{2,24}})(?![\w@])",
    re.IGNORECASE,
)
_LOCAL_LENGTH, _DOMAIN_LENGTH = 64, 253  # RFC 5321
_FILES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".css", ".js")  # icon@2x.png


def _emails(text: str) -> Iterator[Span]:
    before = 0
    for at in _AT.finditer(text):
        end = at.start() - (at[0] != "@" and text[max(before, at.start() - 1) : at.start()] == " ")
        local = _LOCAL.match(text[max(before, end - _LOCAL_LENGTH - 1) : end][::-1])
        domain = _DOMAIN.match(text, at.end(), at.end() + _DOMAIN_LENGTH)
        if not local or not domain or len(local[0]) > _LOCAL_LENGTH or domain[0].lower().endswith(_FILES):
            continue
        name = local[0][::-1].lstrip(".!#$%&'*+/=?^`{|}~-")
        if name and not name.endswith("."):
            before = domain.end()
            yield end - len(name), before


# IP addresses. A version or a section number may have four parts too; it says so, or its parts are small.
_IPV4 = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w@]|[.,-](?:\d|<ip>))")  # a digit first: found fast
_IPV6 = re.compile(
    r"(?<![\w:.@])(?<!<phone>)(?<!<card>)(?:[0-9a-f]{1,4})?(?::(?:\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|[0-9a-f]{0,4})){2,8}(?![\w@]|\.\d)",
    re.IGNORECASE,
)
_COLONS = re.compile(r":[0-9a-f]{0,4}:", re.IGNORECASE)
_LARGE_GROUP = re.compile(r"(?<![0-9a-f])(?=[a-f]*\d)[0-9a-f]{3,4}(?![0-9a-f])", re.IGNORECASE)
_VERSION = re.compile(
    r"(?:\bv|\b(?:versions?|ver|release|rev|revision|build|firmware|driver|update|patch|sections?|sec|chapter|clause|"
    r"articles?|kapitel|abschnitt|table|figure|fig|oid)\b|§)[ .:=#]{0,3}\Z",
    re.IGNORECASE,
)
_HOST = re.compile(
    r"(?:(?<!<)\b(?:ip|ipv4|address|adresse|host|server|from|client|gateway|dns|ping|inet|proxy|node|ssh|router)\b[^\d\n]{0,12}|//)\Z",
    re.IGNORECASE,
)
_SMALL = 30  # one random address in 5,000 has only parts below it


def _addresses(text: str) -> Iterator[Span]:
    end = 0
    for span in sorted([*_v6(text), *_v4(text)]) if _COLONS.search(text) else _v4(text):
        if span[0] >= end:
            yield span
            end = span[1]


def _v4(text: str) -> Iterator[Span]:
    for match in _IPV4.finditer(text):
        parts = [int(part) for part in match[0].split(".")]
        before = text[max(0, match.start() - 32) : match.start()]
        written = max(parts) < 256 and ".".join(map(str, parts)) == match[0]
        if not written or parts[0] in (0, 127) or parts[0] >= 224:  # loopback, multicast and masks are nobody's
            continue
        if re.search(r"[\w.@,-]\Z", before) or _VERSION.search(before):
            continue
        if max(parts) >= _SMALL or text[match.end() : match.end() + 1] == "/" or _HOST.search(before):
            yield match.span()


def _v6(text: str) -> Iterator[Span]:
    for match in _IPV6.finditer(text):
        written = match[0] if match[0].endswith("::") else match[0].rstrip(":.")
        try:
            address = ipaddress.IPv6Address(written)
        except ValueError:
            continue
        seam = text.startswith(("<phone>", "<card>"), match.end())
        # 1:2:3:4:5:6:7:8 is a ratio, 00:11:22:33:44:55:66:77 a hardware address, ab::cd a name in a program.
        if _LARGE_GROUP.search(written) and not address.is_loopback and not seam:
            yield match.start(), match.start() + len(written)


# Card numbers: the networks' prefixes and lengths (ISO/IEC 7812), written whole or in the groups of a card.
_CARD = re.compile(
    r"\d{4}(?<![\w.,+@/=-]....)(?<!\d ....)(?<!<phone> ....)"
    r"(?:\d{9,15}|([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|([ -])\d{6}\2\d{4,5})"
    r"(?![\w@]|[., -](?:\d|<(?:phone|card)>))"
)
_NETWORKS = (
    (r"4", (13, 16, 19)),  # Visa
    (r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),  # Mastercard
    (r"3[47]", (15,)),  # American Express
    (r"6011|64[4-9]|65", (16, 17, 18, 19)),  # Discover
    (r"30[0-5]|3095|36|3[89]", (14, 16, 17, 18, 19)),  # Diners Club
    (r"352[89]|35[3-8]", (16, 17, 18, 19)),  # JCB
    (r"62", (16, 17, 18, 19)),  # UnionPay
    (r"5018|50[23]0|50[23]8|5893|6304|6759|676[1-3]", (13, 14, 15, 16, 17, 18, 19)),  # Maestro
    (r"220[0-4]", (16, 17, 18, 19)),  # Mir
    (r"60|81|82|508", (16,)),  # RuPay
)
_PREFIXES = [(re.compile(prefix), lengths) for prefix, lengths in _NETWORKS]


def _cards(text: str) -> Iterator[Span]:
    for match in _CARD.finditer(text):
        digits = match[0].replace(" ", "").replace("-", "")
        issued = any(prefix.match(digits) and len(digits) in lengths for prefix, lengths in _PREFIXES)
        if issued and _luhn(digits) and not (len(digits) == 13 and _is_ean(digits)):
            yield match.span()


def _luhn(digits: str) -> bool:
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0


def _is_ean(digits: str) -> bool:
    """Whether 13 digits are an article number: those of Germany begin with 4 as Visa's did."""
    return sum(int(digit) * (1 + 2 * (place % 2)) for place, digit in enumerate(digits)) % 10 == 0


# Telephone numbers: first the longest runs of digit groups, then whether the run, or a part of it, is written as one.
_RUN = re.compile(r"(?<!\w)(?<!<phone>)(?:\+ ?)?\(?(?:\+ ?)?\d+(?:[ ().\-/]{1,3}\d+)*")
_GROUP = re.compile(r"\d+")
_COUNTRY = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|2[1-689]\d|3[578]\d|42\d|5[09]\d|6[7-9]\d|8[0578]\d|9[679]\d"
)
_CONTEXT = re.compile(
    r"(?P<phone>(?<!<)\b(?:tele)?(?:ph|f)on[eo]?|\bt[eé]l|\bcall|\bfax|\bmobil|\bcell|\bwhatsapp|\bsms\b|\bsignal\b|\bviber|\bdial|"
    r"\bhotline|\bring\b|\btext\b|\bcontact|\bhandy|\bruf|\breach\b|\bportable|\bm[oó]vil|\bcelular|\bpuhelin|\bтел|"
    r"电话|電話|手机|手機|热线|[☎📞☏✆📱]|\b[tmfp][.:] ?\(?\Z|\bph\b|\bmy number)"
    r"|(?P<other>\b(?:isbn|issn|order|invoice|bestell|auftrag|rechnung|commande|pedido|sku|serial|tracking|case\b|doi\b|"
    r"ticket|iban|account|acct|konto|ref|arti[kc]|item|part\b|patent|zip|code|id\b|pmid|oclc|lccn|ean|upc|gtin|vat|ust|siret|"
    r"cnpj|cpf|ssn|passport|polic|licen[cs]e|model|batch|lot\b|page|pp\b|vol\b|n[ro]s?[.°]|№)|#|[=+*^~$€£¥&_]\Z|\d[.,:'-]\Z)",
    re.IGNORECASE,
)
_NATIONAL = re.compile(  # lengths of the groups, as in "(3) 3-4"
    r"(?:\(3\)[ -]?|3([ .-]))3[ .-]4"  # North America
    r"|\([2-5]\) ?[3-8](?:[ -][2-5]){0,2}"  # an area code in brackets
    r"|[23](?P<a>[ .-])3(?P=a)2(?P=a)2|3(?P<b>[ .-])2(?P=b)2(?P=b)2"  # Switzerland, Spain
)
_WHOLE = re.compile(  # the digits themselves
    r"1[ .-]\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}"  # North America with its prefix
    r"|[78][ -]?\(?\d{3}\)?[ -]\d{3}-\d\d-\d\d"  # Russia
    r"|[6-9]\d{4}[ -]\d{5}"  # India
    r"|1[3-9]\d([ -])\d{4}\1\d{4}"  # China
    r"|\d\d 9\d{4}-\d{4}"  # Brazil
    r"|555-\d{4}"
)
_DATE = re.compile(r"\b\d\d?([./ -])\d\d?\1(?:19|20)\d\d\b|\b(?:19|20)\d\d([./ -])\d\d?\2\d\d?\b")
_YEARS = re.compile(r"(?:1\d|20)\d\d ?[-/] ?(?:(?:1\d|20)\d\d|\d\d)")
_STRONG = re.compile(
    r"(?<![\d.\-/(])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}-)\d{3}-\d{4}(?!\d|[.\-/]\d)|(?<![\d.\-/(])\(0\d{1,4}\) ?\d{4,8}(?![\d-])"
)
_LEAST, _MOST = 8, 15  # digits of an international number (E.164)
_SEEN = 48  # characters before a number that may say what it is


def _phones(text: str) -> Iterator[Span]:
    before, position = "", 0  # what a second pass would see to the left, and up to where

    def judge(start: int, end: int) -> Span | None:
        nonlocal before, position
        start += text[start] == "(" and text.count("(", start, end) > text.count(")", start, end)  # the sentence's own
        before = (before + text[max(position, start - _SEEN) : start])[-_SEEN:]
        length = _phone_length(text[start:end], before, text[end : end + 2])
        position = start + length
        before += "<phone>" if length else ""
        return (start, position) if length else None

    for run in _RUN.finditer(text):
        rest: re.Match[str] | None = run
        while rest and rest.end() - rest.start() >= 7 and (found := judge(*rest.span())):
            yield found
            rest = _RUN.search(text, found[1], run.end())
        for part in _parts(text, *rest.span()) if rest else ():
            if found := judge(*part):
                yield found


def _parts(text: str, start: int, end: int) -> Iterator[Span]:
    """Pieces of a run: what slashes between spaces divide, and in them numbers whose form tells them from their neighbours."""
    for piece in re.finditer(r"(?:(?! / ).)+", text[start:end]):
        position = start + piece.start()
        strong = [(match.start(), match.end()) for match in _STRONG.finditer(text, position, start + piece.end())]
        for left, right in [*strong, (start + piece.end(),) * 2]:
            for span in ((position, left), (left, right)):
                yield from (run.span() for run in _RUN.finditer(text, *span) if run.end() - run.start() >= 7)
            position = right


def _phone_length(run: str, before: str, after: str) -> int:
    """How many characters of a run of digit groups are a telephone number; 0 where it is none."""
    if after and (re.match(r"(?!x\d)\w|[%€$£¥°@]|[.,:]\d", after)) or re.search(r"\w\Z", before):
        return 0
    context = list(_CONTEXT.finditer(re.split(r"[\d\n](?![.,:'-]\Z)", before)[-1]))
    said = context[-1].lastgroup if context else None
    groups = _GROUP.findall(run)
    digits = "".join(groups)
    if "+" in run:
        return _international(run, groups) if not re.search(r"[\d=*^]\Z", before) else 0
    if said == "other" or not 6 <= len(digits) <= _MOST or len(run) > 30 or _DATE.search(run) or _YEARS.fullmatch(run):
        return 0
    if said == "phone":
        return len(run)
    return len(run) if _is_national(run, groups, digits, before + "|" + after) else 0


def _international(run: str, groups: list[str]) -> int:
    """+49 30 1234567: a country's code and 8 to 15 digits in all, but no signed decimal and no round millions."""
    country = _COUNTRY.match(groups[0])
    if not country or (len(groups) > 1 and len(groups[0]) < 4 and country[0] != groups[0]):
        return 0
    total, end = 0, 0
    for group in _GROUP.finditer(run):
        if total + len(group[0]) > _MOST:
            break
        total, end = total + len(group[0]), group.end()
    if total < _LEAST or (re.fullmatch(r"\+\d+\.\d+", run) and total < 10):
        return 0
    millions = len(groups) > 1 and len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:])
    return 0 if millions and total < 10 else end


def _is_national(run: str, groups: list[str], digits: str, around: str) -> bool:
    lengths = [len(group) for group in groups]
    if digits.startswith("00"):
        country = _COUNTRY.match(digits[2:])
        whole = country is not None and groups[0] in ("00", f"00{country[0]}")
        return whole and len(groups) > 1 and _LEAST <= len(digits) - 2 <= 13
    if digits[0] == "0":
        pairs = set(lengths) == {2} and groups == sorted(groups) and groups[-1] < "60"  # drawn numbers
        if lengths[0] < 2 or pairs or lengths in ([5, 4], [3, 2, 4]) or re.fullmatch(r"\d{4}(?: \d{4})+", run):
            return False
        return len(digits) in ((10, 11) if len(groups) == 1 else (9, 10, 11, 12))
    if len(groups) == 1:
        return bool(re.fullmatch(r"1[3-9]\d{9}", run) and re.search("[\u4e00-\u9fff]", around))
    shape = _GROUP.sub(lambda match: str(len(match[0])), run)
    if _NATIONAL.fullmatch(shape) and 9 <= len(digits) <= 12:
        a_year = run[0] == "(" and lengths[0] == 4
        first, last = (int(group) for group in groups[-2:])
        pages = lengths[-1] == lengths[-2] and 0 < last - first < 50
        return not a_year and not (pages and run[0] == "(")
    return bool(_WHOLE.fullmatch(run))


_FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "email": _emails,
    "ip": _addresses,
    "card": _cards,
    "phone": _phones,
}
