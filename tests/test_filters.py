"""Output filters on plain texts: what rules match, what is shown, and that no cut of the text changes it."""

from __future__ import annotations

import itertools
import re
import time
import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.runtime.filters.automaton import Automaton, Threads
from miaotui.runtime.filters.filters import Filtered, Filters
from miaotui.runtime.filters.folding import FORMS, LONGEST, Folded, fold
from miaotui.runtime.filters.patterns import parse, width
from miaotui.runtime.filters.rules import FilterRule, Search

if TYPE_CHECKING:
    from collections.abc import Mapping

Spans = list[tuple[int, int]]


def matches(rule: FilterRule, *pieces: str) -> Spans:
    search = Search(rule)
    return [span for piece in pieces for span in search.push(piece)] + search.end()


def streamed(filters: Filters, pieces: list[str]) -> tuple[str, Filtered]:
    """What a reader is shown of a text in pieces, which ends where the filters end it; and the record."""
    filtering, shown, whole = filters.filtering(), "", filters.apply("".join(pieces)).text
    for piece in pieces:
        shown += filtering.push(piece)
        assert whole.startswith(shown), "something was shown that is withdrawn later"
        if filtering.finish_reason is not None:
            break
    shown += filtering.end()
    assert filtering.end() == ""
    return shown, filtering.filtered()


def cut(text: str, places: int) -> list[str]:
    """The text in pieces; bit i: a cut before character i + 1."""
    ends = [i + 1 for i in range(len(text) - 1) if places >> i & 1]
    return [text[a:b] for a, b in itertools.pairwise([0, *ends, len(text)])]


def check_same(filters: Filters, pieces: list[str]) -> None:
    """The pieces give what the whole gives."""
    whole, (shown, told) = filters.apply("".join(pieces)), streamed(filters, pieces)
    assert shown == told.text == whole.text
    assert (told.findings, told.ended, told.finish_reason) == (whole.findings, whole.ended, whole.finish_reason)
    assert "".join(pieces).startswith(told.unfiltered)
    assert filters.replay(filters.record(told), told.unfiltered) == []


# --- expressions -----------------------------------------------------------------------------------------------------


def of_python(pattern: str, text: str, longest: int, flags: int = 0) -> dict[int, int]:
    """Where the longest match of at most `longest` characters begins, by its end; by trying every place."""
    begun: dict[int, int] = {}
    for end in range(1, len(text) + 1):
        for start in range(max(0, end - longest), end):
            around = rf"(?s:.{{{start}}})(?:{pattern})(?s:.{{{len(text) - end}}})\Z"
            if re.match(around, text, flags):
                begun[end] = start
                break
    return begun


def of_ours(pattern: str, text: str, longest: int, *, wide: bool = False, **how: bool) -> dict[int, int]:
    automaton = Automaton(parse(pattern, **how), longest)
    automaton.wide |= wide
    threads = Threads(automaton)
    for c in text:
        threads.push(c)
    threads.end()
    assert threads.live == len(text)
    return {end: start for start, end in threads.matches}


ATOMS = ["a", "b", "É", r"\.", ".", r"\w", r"\W", r"\d", r"\s", "[ab]", "[^a]", "[a-c-]", r"[\d_]", r"[^\W\d]", "[]x]"]
PLACES = [r"\b", r"\B", r"\A", r"\Z", "^"]
COUNTS = ["*", "+", "?", "{2}", "{1,2}", "{2,}", "{,2}", "*?", "+?", "{1,2}?"]
PATTERNS = st.recursive(
    st.sampled_from(ATOMS + PLACES),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(COUNTS)).map(lambda pair: f"({pair[0]}){pair[1]}"),
    ),
    max_leaves=6,
)
TEXTS = st.text("abÉé.c_1 \n", max_size=9)


@given(PATTERNS, TEXTS, st.booleans(), st.integers(1, 9))
@settings(max_examples=300)
def test_matches_are_those_of_python(
    pattern: str,
    text: str,
    ignore_case: bool,  # noqa: FBT001 - drawn
    longest: int,
) -> None:
    flags = re.IGNORECASE if ignore_case else 0
    wanted = of_python(pattern, text, longest, flags)
    for wide in (False, True):
        assert of_ours(pattern, text, longest, ignore_case=ignore_case, wide=wide) == wanted


@pytest.mark.parametrize(
    ("pattern", "text", "spans"),
    [
        (r"(?i)straße", "STRASSE Straße", {14: 8}),
        (r"(?m)^b$", "a\nb\nab", {3: 2}),
        (r"b$", "ab\n", {}),  # the end of the text alone, where Python takes a last newline too
        (r"(?s)a.b", "a\nb", {3: 0}),
        (r"a.b", "a\nb", {}),
        (r"\x61\u00e9\U0001F600\t\0", "aé😀\t\0", {5: 0}),
        (r"(?P<year>\d{4})-(?i:JAN)", "x2024-jan", {9: 1}),
        (r"a{,2}b", "aaab", {4: 1}),
        (r"a{}", "a{}", {3: 0}),
        (r"[\]\-b]+", "a]-b", {2: 1, 3: 1, 4: 1}),
        (r"(a*)*b", "aab", {3: 0}),
        (r"x|", "x", {1: 0}),
    ],
)
def test_matches(pattern: str, text: str, spans: dict[int, int]) -> None:
    assert of_ours(pattern, text, 99) == spans


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [("a", 1, 1), ("a{2,3}b?", 2, 4), ("(ab|c)*", 0, None), ("ab|cde", 2, 3), (r"\bx+", 1, None), ("(|a)b", 1, 2),
     (r"(\b)*a", 1, 1), ("a{0}b", 1, 1)],
)  # fmt: skip
def test_widths(pattern: str, least: int, most: int | None) -> None:
    assert width(parse(pattern)) == (least, most)


@pytest.mark.parametrize("pattern", ["(a?){990}", "(a?b?){490}c", r"(a?\b){600}"])
def test_parts_that_may_be_empty_are_worked_out_together(pattern: str) -> None:
    """Each state leads to all after it: told one by one that is a million steps a character."""
    automaton = Automaton(parse(pattern), 1000)
    assert automaton.wide
    text, steps, spread = "a" * 5 + "b", 0, automaton.spread

    def counted(threads: Mapping[int, int], around: int) -> dict[int, int]:
        nonlocal steps
        out = spread(threads, around)
        steps += 1
        return out

    automaton.spread = counted  # type: ignore[method-assign]  # to see that it is asked
    threads = Threads(automaton)
    for c in text:
        threads.push(c)
    threads.end()
    assert 0 < steps <= len(text)
    assert not automaton._closures or max(len(one) for one, _ in automaton._closures.values()) <= 2000
    assert len(automaton._closures) <= 32, "of the beginning alone"
    small = pattern.replace("990", "6").replace("490", "6").replace("600", "6")
    assert {end: start for start, end in threads.matches} == of_python(small, text, 1000)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(a*)*(a*)*c", r"(\w+\s?)+$!", "(.*)(.*)(.*)(.*)(.*)z"])
def test_no_expression_takes_time_that_grows_faster_than_the_text(pattern: str) -> None:
    """Python's own engine needs longer than the universe is old for the first."""
    rule, took = FilterRule(regex=pattern), []
    for n in (2_000, 8_000):
        began = time.process_time()
        matches(rule, "a" * n)
        took.append(time.process_time() - began)
    assert took[1] < 20 * took[0] + 0.5


@pytest.mark.parametrize(
    ("regex", "says"),
    [
        ("(a", "missing \\)"),
        (r"(a)\1", "back reference"),
        ("(?=a)b", "look-ahead"),
        ("(?<!a)b", "look-behind"),
        ("(?>a)b", "atomic"),
        ("a*+b", "possessive"),
        ("(?P<x>a)(?P=x)", "back reference"),
        ("(a)(?(1)b|c)", "condition"),
        ("(?x)a b", "flag 'x'"),
        (r"\N{DIGIT ONE}", "names"),
        ("a{1001}", "1000 repetitions"),
        ("(a{100}){100}", "2000 states"),
        ("a*", "empty text"),
        (r"\b", "empty text"),
        ("(" * 3000 + "a" + ")" * 3000, "nested too deeply"),
        ("a" * 10_001, "10001 characters"),
    ],
)
def test_refused_expressions(regex: str, says: str) -> None:
    with pytest.raises(InputError, match=rf"rules\[1\] \('x'\): regex=.*{says}"):
        Filters([{"words": ["a"]}, {"name": "x", "regex": regex}])


# --- words -----------------------------------------------------------------------------------------------------------


def by_trying(words: list[str], text: str, *, whole: bool) -> dict[int, int]:
    """Where the longest word begins, by its end, in a text that folding leaves as it is."""
    begun: dict[int, int] = {}
    for word in sorted(words, key=len):
        edge = r"\b" if whole else ""
        first, last = edge if word[0].isalnum() else "", edge if word[-1].isalnum() else ""
        for start in range(len(text)):
            if re.compile(first + re.escape(word) + last).match(text, start):
                begun[start + len(word)] = start
    return begun


@given(
    st.lists(st.text("ab-", min_size=1, max_size=4), min_size=1, max_size=5),
    st.lists(st.text("abc -", max_size=4), max_size=8),
    st.booleans(),
)
@settings(max_examples=300)
def test_words_are_those_that_trying_finds(
    words: list[str],
    pieces: list[str],
    whole: bool,  # noqa: FBT001 - drawn
) -> None:
    rule = FilterRule(words=tuple(words), whole_words=whole, ignore_case=False, normalize="none")
    got = matches(rule, *pieces)
    assert {end: start for start, end in got} == by_trying(words, "".join(pieces), whole=whole)
    assert len(got) == len({end for _, end in got})


@pytest.mark.parametrize(
    ("words", "text", "shown"),
    [
        (["bad"], "Bad, BAD; badly: bad_ b\u00adad \uff42\uff41\uff44", "***, ***; badly: bad_ *** ***"),
        (["wörter"], "WO\u0308RTER wo\u0308rter Wörte", "*** *** Wörte"),
        (["strasse"], "Die Straße", "Die ***"),
        (["ice cream"], "ice\n  cream, ice\u00a0cream, icecream", "***, ***, icecream"),
        (["坏人"], "他是坏人吗", "他是***吗"),
        (["c++"], "c++ or c+++ or vc++", "*** or ***+ or vc++"),
        (["e"], "e\u0301 e", "e\u0301 ***"),
        (["각"], "\u1100\u1161\u11a8", "***"),
        (["a", "ab", "bc"], "a ab abc", "*** *** abc"),
    ],
)
def test_words_are_folded_and_whole(words: list[str], text: str, shown: str) -> None:
    for pieces in ([text], list(text)):
        assert streamed(Filters([{"words": words}]), pieces)[0] == shown


@pytest.mark.parametrize("regex", ["a((((){1000}){1000}){1000}){1000}", "b((((a{0}){1000}){1000}){1000}){1000}"])
def test_nothing_many_times_is_nothing(regex: str) -> None:
    assert Filters([{"regex": regex}]).apply("xabx").text.count("***") == 1


@pytest.mark.parametrize(
    "text",
    ["se\U000e0101cret", "se\u180bcret", "se\u17b4cret", "se\u034f\u200dcret", "caf\u200de\u0301", "cafe\u200d\u0301",
     "cafe\ufe0f\u0301", "\u1100\u200d\u1161\u11a8"],
)  # fmt: skip
def test_what_is_not_seen_hides_no_word(text: str) -> None:
    """Variation selectors, fillers; joiners between a letter and its accent, too."""
    filters = Filters([{"words": ["secret", "café", "각"]}])
    assert filters.apply(f"a {text} b").text == "a *** b"
    assert streamed(filters, [*f"a {text} b"])[0] == "a *** b"


def test_words_as_they_are() -> None:
    rule = {"words": ["Bad"], "whole_words": False, "ignore_case": False, "normalize": "none"}
    assert Filters([rule]).apply("Badly bad xBad").text == "***ly bad x***"
    assert Filters([rule | {"normalize": "NFC", "words": ["é"]}]).apply("e\u0301, b\u200bad").text == "***, b\u200bad"


@given(st.lists(st.text(max_size=6), max_size=6), st.sampled_from(FORMS), st.booleans())
@settings(max_examples=300)
def test_folding_does_not_depend_on_the_pieces(
    pieces: list[str],
    form: Any,
    ignore_case: bool,  # noqa: FBT001 - drawn
) -> None:
    folded, text = Folded(form, ignore_case=ignore_case), "".join(pieces)
    assert "".join(map(folded.push, pieces)) + folded.end() == fold(text, form, ignore_case=ignore_case)
    assert folded.done == len(text)


@given(
    st.text(
        st.sampled_from("aeE\u0301\u0323\u0327ﬁ\uff9e\u30ab각\u1100\u1161\u11a8\u09c7\u09beß\u212b\U0001d15f\u0344"),
        max_size=9,
    )
)
@settings(max_examples=500)
def test_segments_are_normalised_as_the_whole_is(text: str) -> None:
    assert fold(text, "NFC", ignore_case=False) == unicodedata.normalize("NFC", text)


def test_segments_end() -> None:
    """So a text of accents alone holds nothing back for ever."""
    folded = Folded("NFC", ignore_case=False)
    assert "".join(folded.push("\u0301") for _ in range(3 * LONGEST)) == "\u0301" * 2 * LONGEST


def test_many_words() -> None:
    words = [f"w{i:05d}x" for i in range(20_000)]
    assert Filters([{"words": words}]).apply("a w00017x, w19999x w20000x").text == "a ***, *** w20000x"


# --- what is shown ---------------------------------------------------------------------------------------------------

RULES: list[list[dict[str, Any]]] = [
    [{"words": ["ab", "abc d"]}],
    [{"words": ["ab"], "action": "block", "replacement": "[end]"}, {"words": ["bc"], "whole_words": False}],
    [{"regex": "a+b"}, {"regex": "b.?c", "replacement": "#"}, {"words": ["d"], "action": "stop"}],
    [{"regex": r"\bab\b", "action": "stop"}, {"regex": "b", "action": "block"}, {"regex": "a", "replacement": "_"}],
    [{"regex": "a.*d", "max_length": 5}, {"words": ["c"], "normalize": "NFC"}],
    [{"regex": "\u0301"}, {"words": ["é"], "whole_words": False}, {"regex": "e", "action": "stop"}],
]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("text", ["abc dabcd", "ab  abc a", "aab cbaabb", "e\u0301ab e\u0301", "dd"])
def test_every_cut_of_a_text_shows_the_same(rules: list[dict[str, Any]], text: str) -> None:
    filters = Filters(rules)
    for places in range(1 << (len(text) - 1)):
        check_same(filters, cut(text, places))


ACTED = st.sampled_from(["mask", "mask", "block", "stop"])
WORDS = st.lists(st.text("abcßé ", min_size=1, max_size=3).filter(str.strip), min_size=1, max_size=3)
REGEXES = st.sampled_from(["a+", "ab*c", r"\bb", "c$", "[bc]{2}", "a.{0,3}c", "b+?a"])
HOW = {"action": ACTED, "ignore_case": st.booleans(), "normalize": st.sampled_from(["NFKC", "NFC", "none"])}
DRAWN = st.one_of(
    st.fixed_dictionaries({"words": WORDS, "whole_words": st.booleans(), **HOW}),
    st.fixed_dictionaries({"regex": REGEXES, "max_length": st.integers(4, 9), **HOW}),
)


def test_a_character_that_is_not_seen_ends_no_word() -> None:
    """The stop rule's match waits for the blank; until then the block rule's, which ends there too, is not certain."""
    rules = [{"words": ["ss"], "action": "stop"}, {"words": ["ß"], "action": "block", "normalize": "NFC"}]
    for pieces in (["ß\u200b "], ["ß", "\u200b", " ", "x"], ["ß\u200b", " A"]):
        check_same(Filters(rules), pieces)
        assert streamed(Filters(rules), pieces)[1].finish_reason == "stop"


@given(st.lists(DRAWN, min_size=1, max_size=4), st.lists(st.text("abc sße\u0301\u200b\n", max_size=5), max_size=8))
@settings(max_examples=400)
def test_pieces_show_what_the_whole_shows(rules: list[dict[str, Any]], pieces: list[str]) -> None:
    check_same(Filters(rules), pieces)


@given(
    st.lists(st.text("abc ", min_size=1, max_size=4).filter(str.strip), min_size=1, max_size=4),
    st.sampled_from(["mask", "block", "stop"]),
    st.lists(st.text("abc Aé\u200b ", max_size=6), max_size=6),
)
@settings(max_examples=300)
def test_no_hidden_word_is_ever_shown(words: list[str], action: str, pieces: list[str]) -> None:
    filters = Filters([{"words": words, "whole_words": False, "action": action}])
    shown, told = streamed(filters, pieces)
    folded = fold(shown, "NFKC", ignore_case=True)
    assert not [word for word in words if fold(word, "NFKC", ignore_case=True).strip() in folded]
    assert not told.findings or told.unfiltered != shown


@given(st.lists(st.sampled_from(["a+b", "bc", "c.a", "b"]), min_size=1, max_size=3, unique=True), TEXTS)
@settings(max_examples=200)
def test_what_is_masked_is_every_match_of_every_rule(regexes: list[str], text: str) -> None:
    filters = Filters([{"name": r, "regex": r} for r in regexes])
    covered = {(r, i) for r in regexes for end, start in of_python(r, text, 256).items() for i in range(start, end)}
    findings = filters.apply(text).findings
    assert {(f.rule, i) for f in findings for i in range(f.start, f.end)} == covered
    hidden = {i for _, i in covered}
    left = "".join(c for i, c in enumerate(text) if i not in hidden)
    assert filters.apply(text).text.replace("***", "") == left


def test_what_overlaps_is_shown_once_by_the_rule_that_begins_it() -> None:
    filters = Filters([{"regex": "b", "replacement": "2"}, {"regex": "ab", "replacement": "1"}, {"words": ["x"]}])
    made = filters.apply("abb x")
    assert made.text == "12 ***"
    assert [(f.rule, f.start, f.end) for f in made.findings] == [
        ("ab", 0, 2),
        ("b", 1, 2),
        ("b", 2, 3),
        ("words", 4, 5),
    ]


def test_the_first_to_end_ends_the_text_and_masks_see_the_rest_as_a_whole() -> None:
    rules = [{"regex": "bcd", "action": "block"}, {"regex": "cd", "action": "stop"}, {"words": ["a"]}]
    made = Filters(rules).apply("x abcd")
    assert (made.text, made.finish_reason) == ("x ***", "filter")  # "a" is a word of what is left
    assert made.ended is not None
    assert (made.ended.rule, made.ended.start, made.ended.end) == ("bcd", 3, 6)
    assert Filters(rules[1:]).apply("x abcd").finish_reason == "stop"
    assert Filters(rules).apply("x ab").finish_reason is None


def test_only_what_may_be_hidden_is_held_back() -> None:
    filtering = Filters([{"regex": "secret"}, {"regex": r"\d{4}", "action": "block"}]).filtering()
    shown = [filtering.push(piece) for piece in ["a s", "e", "a ", "12", "3 ", "sec", "ret", "!"]]
    assert shown == ["a ", "", "sea ", "", "123 ", "", "***", "!"]


# --- rules, people, audits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ("x", "rules='x': expected a list"),
        ({"words": ["x"]}, "expected a list"),
        ([], "0 found, expected 1"),
        ([3], r"rules\[0\]: 3 found"),
        ([{"words": ["a"]}, {"word": ["x"]}], r"rules\[1\]: unknown field word \(did you mean words\?\)"),
        ([{"name": "n"}], r"rules\[0\] \('n'\): neither words nor regex"),
        ([{"words": ["x"], "regex": "x"}], "both words and regex"),
        ([{"words": "x"}], "words='x': expected a list of texts"),
        ([{"words": ["a", ""]}], r"words\[1\]='': expected a text"),
        ([{"words": ["\u200b"]}], r"words\[0\].*nothing is left"),
        ([{"words": ["x"], "action": "hide"}], "action='hide': expected one of mask, block, stop"),
        ([{"words": ["x"], "replacement": ""}], "would join"),
        ([{"words": ["x"], "action": "stop", "replacement": "y"}], "replacement: of mask and block"),
        ([{"words": ["x"], "replacement": "x"}], "replacement='x' is itself found by 'words'"),
        ([{"words": ["x"]}, {"regex": "y", "replacement": "x"}], r"rules\[1\] \('y'\): replacement='x'"),
        ([{"words": ["x"], "whole_words": "no"}], "whole_words='no': expected True or False"),
        ([{"words": ["x"], "normalize": "NFD"}], "normalize='NFD': expected one of NFC, NFKC, none"),
        ([{"words": ["x"], "max_length": 3}], "max_length: of a regex"),
        ([{"regex": "x", "whole_words": True}], r"whole_words: of words; write \\b"),
        ([{"regex": "x+", "max_length": 5000}], "max_length=5000: expected a whole number .* from 1 to 4096"),
        ([{"regex": "xxx", "max_length": 2}], "max_length=2: the shortest match .* has 3"),
        ([{"regex": 3}], "regex=3: expected a text"),
        ([{"name": 3, "regex": "x"}], "name=3: expected a text"),
        ([{"regex": "x"}] * 1001, "more found, expected 1 to 1000"),
    ],
)  # fmt: skip
def test_refused_rules(rules: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Filters(rules)


def test_refused_functions() -> None:
    for name in ("hold", "audit"):
        with pytest.raises(InputError, match=f"{name}=3: expected a function"):
            Filters([{"words": ["x"]}], **{name: 3})
    with pytest.raises(InputError, match="audit_text='yes': expected True or False"):
        Filters([{"words": ["x"]}], audit_text="yes")  # type: ignore[arg-type]


def test_a_person_decides() -> None:
    said: list[str] = ["release", "refuse", "something else"]
    filters = Filters([{"words": ["bad"]}], hold=lambda _: said.pop(0))
    made = filters.apply("a bad word")
    decided = [filters.decided(made) for _ in range(3)]
    assert [(d.text, d.decision, d.finish_reason) for d in decided] == [
        ("a *** word", "release", None),
        ("", "refuse", "filter"),
        ("something else", "replace", "filter"),
    ]
    assert all(filters.replay(filters.record(d), made.unfiltered) == [] for d in decided)
    filtering = filters.filtering()
    assert filtering.push("a bad") + filtering.push(" word") + filtering.end() == ""
    with pytest.raises(InputError, match=r"hold: the function returned None; expected \"release\""):
        Filters([{"words": ["x"]}], hold=lambda _: None).decided(made)  # type: ignore[arg-type, return-value]


def test_a_record_proves_itself_and_shows_every_change() -> None:
    filters = Filters([{"name": "n", "words": ["bad"]}, {"regex": "end", "action": "block"}], audit_text=True)
    made = filters.apply("a bad word end")
    record = filters.record(made, seed=7)
    assert (record["seed"], record["ended_by"], record["unfiltered"]) == (7, "end", "a bad word end")
    assert filters.replay(record) == []
    for name, value in {
        "filters": "0", "characters": 3, "unfiltered_sha256": "", "shown_sha256": "", "findings": [], "ended_by": None,
        "unfiltered": "a bad word",
    }.items():  # fmt: skip
        assert filters.replay({**record, name: value}), name
    assert Filters([{"words": ["word"]}], audit_text=True).replay(record)
    with pytest.raises(InputError, match="no unfiltered text"):
        Filters([{"words": ["x"]}]).replay({"findings": []})
    with pytest.raises(InputError, match="no findings"):
        filters.replay({"unfiltered": "x"})


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ([], r"^record: \[\] found, expected a line that an audit wrote"),
        ("x", "^record: 'x' found"),
        (
            {"findings": [], "unfiltered": "a", "decision": []},
            r"^record: decision=\[\]: expected one of release",
        ),
        ({"findings": [], "unfiltered": "a", "decision": "so"}, "^record: decision='so'"),
    ],
)
def test_what_is_no_record_is_refused(record: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Filters([{"words": ["a"]}]).replay(record)
    with pytest.raises(InputError, match=r"^apply: .* found, expected a text"):
        Filters([{"words": ["a"]}]).apply(record if record != "x" else b"x")


def test_a_reader_who_goes_away() -> None:
    filters = Filters([{"words": ["bad", "word"]}], audit_text=True)
    filtering = filters.filtering()
    shown = filtering.push("a bad wo")
    record = filters.record(filtering.abandoned())
    assert (shown, record["decision"], len(record["findings"])) == ("a *** ", "abandoned", 1)
    assert filters.replay(record) == []


def test_a_rule_may_be_changed_as_any_record() -> None:
    rule = FilterRule(words=("bad",))
    other = replace(rule, action="stop", words=("worse",))
    assert Filters([rule, other]).apply("bad and worse").text == "*** and "
    assert (rule.action, rule.words) == ("mask", ("bad",))
    assert replace(rule) == rule
    assert hash(replace(rule)) == hash(rule)
