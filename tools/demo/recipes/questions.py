"""What customers ask a shop, each with the entry of its list of answered questions (FAQ) that it is about.

Questions of one entry share little but their sense, and entries share words: what is cancelled, changed or sent back is
an order in each. A few letters are wrong, as people type. What is held out is asked by other patterns, with other forms
of the words.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

from .pattern import coined, filled, made_of, strange_word, with_strange_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .pattern import Slots

__all__ = ["ENTRIES", "FAQ", "HELD_PATTERNS", "PATTERNS", "held_out", "mistyped", "training"]

#: Entry -> the question as the list has it, and its answer.
FAQ = {
    "return": (
        "How do I return an item?",
        "You can return an item within 30 days. Print the label in your account, and take the parcel to a post office.",
    ),
    "refund": (
        "When do I get my refund?",
        "We pay the money back within five days after the item has arrived at our warehouse.",
    ),
    "track": (
        "Where is my parcel?",
        "The tracking number is in our e-mail. Type it in on our page, and you see where the parcel is.",
    ),
    "late": (
        "My order is late. What can I do?",
        "If an order has not arrived after ten days, write to us. We send it again, or pay the money back.",
    ),
    "cancel": (
        "How do I cancel my order?",
        "Until we have sent it, you can cancel an order in your account, under Orders.",
    ),
    "change": (
        "Can I change my order?",
        "Until we have sent it, you can add and remove items in your account, under Orders.",
    ),
    "address": (
        "How do I change my address?",
        "Change your address in your account, under Profile. It counts from the next order on.",
    ),
    "password": (
        "I forgot my password.",
        "On the page where you log in, choose Forgot password. We send you a link for a new one.",
    ),
    "payment": ("How can I pay?", "You can pay by card, by bank transfer, or on invoice."),
    "invoice": ("Where do I find my invoice?", "Every invoice is in your account, under Orders, as a file to print."),
    "shipping": ("What does shipping cost?", "Shipping costs 4.90 euros, and nothing for orders above 50 euros."),
    "abroad": (
        "Do you ship to other countries?",
        "We ship to every country of Europe. Outside Europe we do not ship yet.",
    ),
    "broken": (
        "My item arrived broken.",
        "We are sorry. Send us a photo of what is broken, and we send a new item at once.",
    ),
    "missing": (
        "An item is missing from my parcel.",
        "Some orders come in two parcels. If the second does not come within three days, write to us.",
    ),
    "warranty": ("How long is the warranty?", "Every item has a warranty of two years."),
    "stock": (
        "When will an item be back in stock?",
        "Leave your e-mail address on the item's page, and we tell you when it is back in stock.",
    ),
    "voucher": ("How do I use a voucher?", "Type the code of the voucher in the field above the price when you pay."),
    "account": (
        "How do I delete my account?",
        "Write to us from the e-mail address of the account, and we delete it within a week.",
    ),
}
ENTRIES = tuple(FAQ)

_WORDS: Slots = {
    "item": made_of(("item", "lamp", "pair of shoes", "shirt", "kettle", "phone", "chair"), strange_word),
    "please": ("", "", "please ", "hello, ", "hi, "),
    "parcel": ("parcel", "package", "order", "delivery"),
    "country": made_of(
        ("France", "Norway", "Spain", "Poland", "Canada", "Austria"),
        coined(("Al", "Bor", "Cas", "Dan"), ("land", "ia", "ria")),
    ),
    "card": ("credit card", "bank transfer", "invoice", "card"),
}

PATTERNS = {
    "return": (
        "{please}how do I return {item}?",
        "I want to send back my {item}",
        "can I return the {item} that I bought?",
        "the {item} does not fit, how do I send it back?",
        "I do not like the {item} and want to return it",
        "where do I send a return?",
    ),
    "refund": (
        "{please}when do I get my refund?",
        "I sent the {item} back, where is my money?",
        "how long does a refund take?",
        "I have not got my money back yet",
        "my refund has not come",
        "when will you pay me back for the {item}?",
    ),
    "track": (
        "{please}where is my {parcel}?",
        "can I track my {parcel}?",
        "how do I follow my {parcel}?",
        "what is my tracking number?",
        "I want to see where my {parcel} is",
        "track {parcel}",
    ),
    "late": (
        "{please}my {parcel} is late",
        "my {parcel} should be here by now",
        "I have waited two weeks for my {parcel}",
        "my {item} has still not arrived",
        "why does my {parcel} take so long?",
        "the {parcel} has not come",
    ),
    "cancel": (
        "{please}how do I cancel my order?",
        "I want to cancel the {item}",
        "cancel my order please",
        "I do not want the {item} any more, stop the order",
        "can I cancel an order that is not sent?",
        "I ordered by mistake",
    ),
    "change": (
        "{please}can I change my order?",
        "I want to add a {item} to my order",
        "can I take the {item} out of my order?",
        "I ordered the wrong size, can I change it?",
        "change my order to two of the {item}",
        "can I add something to an order?",
    ),
    "address": (
        "{please}how do I change my address?",
        "I have moved, where do I put my new address?",
        "my address is wrong",
        "I live in another street now",
        "can you change my address?",
        "send it to my new address",
    ),
    "password": (
        "{please}I forgot my password",
        "I cannot log in",
        "how do I get a new password?",
        "my password does not work",
        "reset my password",
        "the log in page says my password is wrong",
    ),
    "payment": (
        "{please}how can I pay?",
        "can I pay by {card}?",
        "do you take {card}?",
        "which ways to pay do you have?",
        "I want to pay by {card}",
        "is it possible to pay with {card}?",
    ),
    "invoice": (
        "{please}where do I find my invoice?",
        "I need an invoice for my {item}",
        "can you send me the invoice?",
        "how do I print an invoice?",
        "there was no invoice with my {parcel}",
        "I need a bill for my company",
    ),
    "shipping": (
        "{please}what does shipping cost?",
        "how much is shipping for a {item}?",
        "is shipping free?",
        "what do I pay for delivery?",
        "do I have to pay for shipping?",
        "how much do you charge to send a {item}?",
    ),
    "abroad": (
        "{please}do you ship to {country}?",
        "can you send a {item} to {country}?",
        "do you deliver to other countries?",
        "I live in {country}, can I order?",
        "is it possible to ship abroad?",
        "do you send to {country}?",
    ),
    "broken": (
        "{please}my {item} arrived broken",
        "the {item} is broken",
        "the {item} does not work",
        "there is a crack in my {item}",
        "my {item} came damaged",
        "the {item} you sent is defect",
    ),
    "missing": (
        "{please}an item is missing",
        "the {item} was not in the {parcel}",
        "I ordered two and got one {item}",
        "part of my {parcel} is missing",
        "you forgot the {item}",
        "there is no {item} in the box",
    ),
    "warranty": (
        "{please}how long is the warranty?",
        "does the {item} have a warranty?",
        "is my {item} still under warranty?",
        "how many years of warranty do I get?",
        "what does the warranty cover?",
        "warranty for a {item}",
    ),
    "stock": (
        "{please}when is the {item} back in stock?",
        "the {item} is sold out",
        "do you have the {item} in stock?",
        "when can I buy the {item} again?",
        "is the {item} available?",
        "will you get more of the {item}?",
    ),
    "voucher": (
        "{please}how do I use a voucher?",
        "my voucher does not work",
        "where do I type the code of my voucher?",
        "I have a gift card",
        "the discount code is not accepted",
        "can I use two vouchers?",
    ),
    "account": (
        "{please}how do I delete my account?",
        "I want to close my account",
        "delete my data",
        "remove my account please",
        "I do not want an account any more",
        "can you delete all that you know about me?",
    ),
}

HELD_WORDS: Slots = {
    "item": ("jacket", "toaster", "backpack", "monitor", "blanket", "bicycle helmet"),
    "please": ("good evening, ", "greetings, ", "excuse me, "),
    "parcel": ("parcels", "shipment", "packages", "orders"),
    "country": ("Iceland", "Croatia", "Japan", "Greece"),
    "card": ("debit card", "wire transfer", "credit cards"),
}

HELD_PATTERNS = {
    "return": (
        "{please}what are the steps for returning a {item}?",
        "returning the {item}: which form do I need?",
        "my wife wants the {item} sent back",
    ),
    "refund": (
        "{please}still no refund for that {item} which went back to you",
        "how many days until refunds reach my bank?",
        "refunded yet? I returned a {item} last week",
    ),
    "track": (
        "{please}is tracking possible for my {parcel}?",
        "tell me where my {parcel} might be right now",
        "tracking link for the {item}?",
    ),
    "late": (
        "{please}three weeks of waiting and the {item} has not arrived",
        "it is very late, that {parcel} of mine",
        "the {item} should have arrived on Monday",
    ),
    "cancel": (
        "{please}cancelling an order, is that possible?",
        "kindly cancel that {item} which I ordered today",
        "cancellation of order wanted",
    ),
    "change": (
        "{please}may I still add a {item} to the order from today?",
        "changing the size within an order",
        "swap the {item} in my order for a bigger one, is a change possible?",
    ),
    "address": (
        "{please}we moved house, new address needed in the profile",
        "changing addresses: how?",
        "you have the wrong street as my address",
    ),
    "password": (
        "{please}forgotten passwords: what to do?",
        "logging in fails, the password is not accepted",
        "help, I cannot remember my password",
    ),
    "payment": (
        "{please}may I pay using a {card}?",
        "paying with a {card}, does that work?",
        "which payment methods are there?",
    ),
    "invoice": (
        "{please}my accountant needs the invoice of the {item}",
        "printing invoices: where?",
        "the invoice never reached me by mail",
    ),
    "shipping": (
        "{please}what would shipping of a {item} cost me?",
        "shipping costs for large orders?",
        "free shipping from which price on?",
    ),
    "abroad": (
        "{please}are you shipping to {country} too?",
        "my sister in {country} wants a {item}, do you deliver there?",
        "shipping abroad to {country}?",
    ),
    "broken": (
        "{please}the {item} broke during transport",
        "what a pity, my {item} came with a broken handle",
        "damaged {item} received",
    ),
    "missing": (
        "{please}the {item} was missing when we opened the box",
        "only half of the items came, the {item} is missing",
        "missing parts in the box",
    ),
    "warranty": (
        "{please}what is the length of the warranty on your {item}?",
        "warranties on electric items, how many years?",
        "after one year, does warranty cover my {item}?",
    ),
    "stock": (
        "{please}could the {item} be in stock again soon?",
        "the {item} shows as sold out, when is more coming?",
        "restocking date for the {item}?",
    ),
    "voucher": (
        "{please}where can vouchers be typed in?",
        "my aunt gave me a voucher, how is it used?",
        "this discount voucher code fails",
    ),
    "account": (
        "{please}deleting an account for good, how?",
        "please have my account closed and the data deleted",
        "account removal wanted",
    ),
}

#: Share of questions with strange words, and of their gaps that have one.
STRANGE, ADDED = 0.6, 0.2
TYPOS = 0.25  # share of questions in which a letter is wrong
_CAPITALS = 0.5  # share that begins with one


def training(seed: int, strange: float = STRANGE) -> Iterator[tuple[str, str]]:
    """Questions and their entries, without end. `strange`: share with strange words."""
    rng = random.Random(f"strange {seed}")  # noqa: S311 - questions, not secrets
    for text, entry in _asked(PATTERNS, _WORDS, seed):
        yield (with_strange_words(text, (), rng, added=ADDED)[0] if rng.random() < strange else text), entry


def held_out(n: int) -> list[tuple[str, str]]:
    """`n` questions of other patterns, with other words, and their entries."""
    return list(itertools.islice(_asked(HELD_PATTERNS, HELD_WORDS, 2), n))


def _asked(patterns: Mapping[str, tuple[str, ...]], words: Slots, seed: int) -> Iterator[tuple[str, str]]:
    rng = random.Random(seed)  # noqa: S311 - questions, not secrets
    while True:
        entry = rng.choice(ENTRIES)
        text, _ = filled(rng.choice(patterns[entry]), words, rng, capital=rng.random() < _CAPITALS)
        yield (mistyped(text, rng) if rng.random() < TYPOS else text), entry


def mistyped(text: str, rng: random.Random) -> str:
    """A letter is left out, doubled, or changes places with the next."""
    i = rng.randrange(1, len(text) - 1)
    before, one, two, after = text[:i], text[i], text[i + 1], text[i + 2 :]
    return before + rng.choice((two, one + one + two, two + one)) + after
