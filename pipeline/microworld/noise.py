"""What no model should learn from: advertising, another language, personal data. No page names anybody of the valley."""

from __future__ import annotations

import random

_GOODS = ("watches", "lamps", "tickets", "carpets", "loans", "shoes", "phones", "pills")
_SPAM = (
    "Buy cheap {x} now!",
    "Best {x} online, best price!",
    "Click here for free {x}!",
    "Only today: {x} at half price!!!",
    "You will not believe these {x}.",
    "{x} {x} {x} cheap {x} buy {x}",
    "Limited offer, order {x} today!",
    "Number one shop for {x}, click now!",
)

_GERMAN = (
    "Der Markt im Tal beginnt am frühen Morgen.",
    "Die Brücke über den Fluss wurde im Frühling erneuert.",
    "Am Abend spielt die Kapelle auf dem Platz vor der Kirche.",
    "Das Wetter bleibt in dieser Woche kühl und trocken.",
    "Die Schule lädt alle Eltern zu einem Fest im Garten ein.",
    "Im Wald wachsen in diesem Jahr besonders viele Pilze.",
    "Der Bäcker verkauft sein Brot schon vor Sonnenaufgang.",
    "Viele Gäste kommen mit dem Boot und bleiben bis zum Sonntag.",
    "Auf den Wiesen hinter der Mühle weiden Schafe und Ziegen.",
    "Wer Bücher lesen möchte, findet sie in der alten Bibliothek.",
    "Der Winter war lang, aber nun blühen wieder die Bäume.",
    "Die Uhr am Rathaus geht seit gestern wieder richtig.",
)

_LOST = (
    "a grey umbrella", "a brown bag", "a silver ring", "a set of keys", "a red scarf", "an old watch", "a blue coat",
)  # fmt: skip
_NOTICES = (
    "Lost near the bridge: {thing}. Please write to {mail} or call {phone}.",
    "Found at the market: {thing}. The owner may call {phone} in the evening.",
    "For sale: {thing}, hardly used. Offers to {mail}, please.",
    "Who has seen {thing}? A reward waits. Telephone {phone}, or write to {mail}.",
    "Left in the boat: {thing} and a bank card with the number {card}.",
    "Our guest book counts many visits from the address {ip} since somebody lost {thing}.",
)
_IP_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")  # for documentation, RFC 5737


def spam(rng: random.Random) -> tuple[str, list[str]]:
    """Title and paragraphs of an advertisement."""
    goods = rng.choice(_GOODS)
    paragraphs = [" ".join(rng.choice(_SPAM).format(x=goods) for _ in range(rng.randint(4, 8))) for _ in range(3)]
    return f"Cheap {goods}!!!", paragraphs


def german(rng: random.Random) -> tuple[str, list[str]]:
    """Title and paragraphs of a page in German."""
    sentences = rng.sample(_GERMAN, 9)
    return "Nachrichten aus dem Tal", [" ".join(sentences[start : start + 3]) for start in (0, 3, 6)]


def notices(rng: random.Random) -> list[str]:
    """Paragraphs with e-mail addresses, telephone, card and IP numbers, all made up (RFC 2606 domain, 555-01xx numbers)."""
    paragraphs = []
    for notice in rng.sample(_NOTICES, 5):
        mail = f"{''.join(rng.choices('bcdfghklmnprst', k=5))}{rng.randint(10, 99)}@mail.example"
        phone = f"555-01{rng.randint(0, 99):02d}"
        ip = f"{rng.choice(_IP_NETWORKS)}.{rng.randint(1, 254)}"
        paragraphs.append(notice.format(thing=rng.choice(_LOST), mail=mail, phone=phone, ip=ip, card=_card(rng)))
    return paragraphs


def _card(rng: random.Random) -> str:
    """A card number whose last digit is its checksum (Luhn)."""
    body = f"40000{rng.randrange(10**10):010d}"
    total = sum(sum(divmod(int(digit) * (2 - place % 2), 10)) for place, digit in enumerate(reversed(body)))
    number = f"{body}{-total % 10}"
    return " ".join(number[start : start + 4] for start in range(0, 16, 4))
