"""What a sentence says of the findings in it: denied, uncertain, past, planned; where a negation begins and ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.stems import Word, texts_of

NEGATIONS = bag(
    "no not never none nothing without denies denied deny denying declines declined declining refuses negative "
    "neither nor nobody don't doesn't didn't haven't hasn't hadn't isn't wasn't aren't weren't ain't free absent "
    "absence lack nope nah unaware unremarkable non dont doesnt didnt havent hasnt isnt cannot can't couldn't won't "
    "wouldn't never's ruled excluded"
)
ABLE = bag("feel see find think say recall remember")
NEEDED: Mapping[str, frozenset[str]] = {  # a denial only before one of these
    **dict.fromkeys(("cannot", "can't", "couldn't", "won't", "wouldn't"), ABLE),
    "ruled": bag("out"),
    "free": bag("of"),
    "non": bag("cigarette smoking tobacco alcohol drug"),  # not "a non-contact injury"
}
NEUTRAL_AFTER = bag(  # "no change in the pain": nothing is denied
    "change changes improvement relief increase increased worsening better worse help helped helping improve improved "
    "improving responding respond response resolved go going away gotten controlled control stop stopped doubt only "
    "effect benefit matter sure certain know remember recall idea question need worry worried bad much worried mind "
    "clue recurrence necessarily well fully completely entirely always quite significant significantly other new "
    "recent recently acute additional recurrent currently further more longer clearly treated affect affected "
    "limited until yet gone able really like want himself herself myself themselves yourself right"
)
ENDS = bag(
    "but however although though except besides because which until unless instead rather ; : since "
    "secondary due despite while whereas then so therefore aside apart whose who"
)
OBJECTS = bag(
    "anything nothing medication medications medicine medicines treatment information advice help reaction reactions"
)
LINKED = bag("to for on about")
SUBJECTS = bag("i he she it they we you patient there my his her i'm i've he's she's it's they're we're that's i'd the")
AFFIRMING = bag(
    "reports reported report admits admitted endorses endorsed complains complained presents presented has had have "
    "states stated notes noted is was are were positive shows showed revealed reveals uses takes continues describes "
    "just only mostly mainly maybe some experiences developed does did"
)
MONTH_LEADS = bag("in since last of until till by from this next early late")
CHILDHOOD, GROWING = bag("child kid baby"), bag("as was were since")  # "as a kid", "when I was a child"
SELDOM = bag("hardly rarely seldom barely scarcely occasionally occasional minimal")
UNSURE = SELDOM | bag(
    "leaning wonder wondered thinks reckons wonders wondering possible possibly probable probably likely "
    "suspect suspected suspicion maybe might may could perhaps questionable concern concerning concerned rule "
    "if risk whether unclear unsure versus vs consider considered worry worried worries wish potential "
    "differential suggestive prevent prevention avoid screen screening case return watch"
)
PAST = bag(
    "used stopped stop stops quit discontinued discontinue former formerly resolved gone prior previous previously "
    "history hx past ago childhood child kid baby finished completed weaned off once before earlier last anymore "
    "subsided disappeared cured remission cleared outgrew grew held hold "
)
PLANS = bag(
    "will going gonna let's lets schedule scheduled order ordered refer referred recommend recommended recommend "
    "we'll i'll plan planned should prescribe prescribed consider advised advise need needs want like start begin "
    "follow upcoming tomorrow next suggest suggested get"
)
DEGREES = bag(
    "two three several multiple occasional rare social some mild moderate heavy positive intermittent "
    "questionable questionably"
)
GOOD = bag(
    "fine normal okay ok good clear clean unremarkable intact negative none denied absent gone spared great "
    "perfect healthy excluded free ruled"
)
NOT_THERE = bag("present there noted seen found implicated involved used taken reported appreciated endorsed")
LINKS = bag(
    "there is are was were be been look looks looked feel feels felt seem seems all "
    "still just pretty now both has have not testing test tested screen screening"
)
SCOPE_SPOKEN, SCOPE_WRITTEN = 12, 60
REACH_GOOD = 4
BREAKS = (";", "but", "however")
NO = ("no", "nope", "nah")
THINKING = ("think", "believe", "know", "recall", "remember")  # "I don't think he has a fever"
DENIED = ("denied", "denies", "none", "negative")
VERBS = frozenset(word for word in AFFIRMING if word[-1] in "sd") - bag("is was has does did")
OPENERS = bag("i i'm i've he she it it's they we that's the my")  # of a clause after "no", which then only answers


class Sentence(NamedTuple):
    """Words `[first, last)`; `asks`: it ends with a question mark; `turn`: of the dialogue, 0 in a note."""

    first: int
    last: int
    asks: bool
    turn: int


ABBREVIATED = bag("dr mr mrs ms st vs jr sr approx")


def split_sentences(words: Sequence[Word], first: int, last: int, turn: int) -> list[Sentence]:
    """The sentences among words `[first, last)`, their final mark not included."""
    sentences = []
    begin = first
    for i in range(first, last):
        if words[i].text not in (".", "?", "!", "\n"):
            continue
        short = words[i].text == "." and i > begin and _is_short(words[i - 1].text)
        if short and i + 1 < last and words[i + 1].text != "\n" and words[i - 1].text != "i":
            continue
        if i > begin:
            sentences.append(Sentence(begin, i, words[i].text == "?", turn))
        begin = i + 1
    if last > begin:
        sentences.append(Sentence(begin, last, False, turn))
    return sentences


def _is_short(text: str) -> bool:
    """Whether a full stop after a word may be the word's own: "Dr.", the "b" of "b.i.d."."""
    return text in ABBREVIATED or (len(text) == 1 and text.isalnum())


def besides(words: Sequence[Word], sentence: Sentence, first: int) -> bool:
    """Whether word `first` names what a question leaves aside: "Besides the [pain], any other problems?"."""
    near = texts_of(words, max(sentence.first, first - 6), first)
    near = near[next((k + 1 for k in range(len(near) - 1, -1, -1) if near[k] == ","), 0) :]
    return "besides" in near or {"than", "other"}.issubset(near) or {"from", "aside"}.issubset(near)


class Scopes(NamedTuple):
    """For each word of a sentence (by index in the text): whether a negation, doubt, past or plan holds there."""

    denied: frozenset[int]
    neutral: frozenset[int]  # in the scope of a negation that denies something else ("no change in")
    unsure: frozenset[int]
    past: frozenset[int]
    planned: frozenset[int]


def read_scopes(words: Sequence[Word], sentence: Sentence, *, spoken: bool) -> Scopes:
    """One pass over the sentence from left to right for negations, one for each other mark."""
    denied, neutral = _negated(words, sentence, spoken=spoken)
    unsure, past, planned = (frozenset(_after_marks(words, sentence, marks)) for marks in (UNSURE, PAST, PLANS))
    return Scopes(denied, neutral, unsure, past | _before_past(words, sentence), planned)


def _after_marks(words: Sequence[Word], sentence: Sentence, marks: frozenset[str]) -> Iterator[int]:
    """Words from a mark on until "but"; "rarely" holds until the next comma or "and"."""
    since = ""
    for i in range(sentence.first, sentence.last):
        text = words[i].text
        if text in marks and not _is_no_mark(words, i, sentence):
            since = text
        elif text in BREAKS or (since in SELDOM and text in (",", "and")):
            since = ""
        if since:
            yield i


def _is_no_mark(words: Sequence[Word], i: int, sentence: Sentence) -> bool:
    """Whether word i only looks like a mark: "all she [could] tell", "since [May]", "a [baby] aspirin"."""
    text = words[i].text
    if text in CHILDHOOD:
        return GROWING.isdisjoint(texts_of(words, max(sentence.first, i - 4), i))
    if text == "could":
        return texts_of(words, i + 1, min(i + 2, sentence.last)) not in (
            ["be"],
            ["have"],
            ["also"],
            ["still"],
            ["well"],
        )
    return text == "may" and i > sentence.first and words[i - 1].text in MONTH_LEADS


def _before_past(words: Sequence[Word], sentence: Sentence) -> frozenset[int]:
    """Words before a mark of the past in their clause: "the pain went away years [ago]"."""
    held: set[int] = set()
    begin = sentence.first
    for i in range(sentence.first, sentence.last):
        if words[i].text in (",", *BREAKS):
            begin = i + 1
        elif words[i].text in PAST:
            held.update(range(begin, i))
            begin = i
    return frozenset(held)


def _negated(words: Sequence[Word], sentence: Sentence, *, spoken: bool) -> tuple[frozenset[int], frozenset[int]]:
    """The words that a negation denies, and those in the scope of one that denies something else."""
    reach = SCOPE_SPOKEN if spoken else SCOPE_WRITTEN
    denied: set[int] = set()
    neutral: set[int] = set()
    held: set[int] | None = None
    since = listed = sentence.first
    for i in range(sentence.first, sentence.last):
        text = words[i].text.removesuffix("'s")
        if _begins(words, i, text, sentence, inside=held is not None, spoken=spoken):
            held, since = (neutral if _denies_else(words, i, sentence.last) else denied), i
        elif held is not None and _ends(words, i, since, sentence, spoken=spoken):
            held = None
        listed = i if text in (",", "or", "nor") else listed
        if held is not None and i - max(since, listed) > reach:
            held = None
        if held is not None:
            held.add(i)
    return frozenset(denied), frozenset(neutral)


def _begins(words: Sequence[Word], i: int, text: str, sentence: Sentence, *, inside: bool, spoken: bool) -> bool:
    after = words[i + 1].text if i + 1 < sentence.last else ""
    if text in NEEDED:
        return after in NEEDED[text]
    if text in NO and (after in OPENERS or (after == "," and spoken and i == sentence.first)):
        return False  # "No I have a migraine", "No, Graves'."
    if text == "not" and i and words[i - 1].text == "or":
        return False  # "whether or not"
    return text in NEGATIONS and not (inside and text == "nor")


def _denies_else(words: Sequence[Word], i: int, end: int) -> bool:
    """Whether the negation at word i denies a change, a need, a degree, and not what follows."""
    clause = next((k for k in range(i + 1, end) if words[k].text == "but"), end)
    if {"like", "until"} & set(texts_of(words, i + 1, min(i + 12, clause))):
        return True  # "I have never felt palpitations like this"
    near = texts_of(words, i + 1, min(i + 3, end))
    if words[i].text in ("denies", "denied", "denying", "deny", "without", "negative", "never"):
        near = near[1:] if near[:1] == ["any"] else near[:1]
    return not NEUTRAL_AFTER.isdisjoint(near)


def _ends(words: Sequence[Word], i: int, since: int, sentence: Sentence, *, spoken: bool) -> bool:
    text, ahead = words[i].text, texts_of(words, i + 1, min(i + 3, sentence.last))
    after, further = (*ahead, "", "")[:2]
    if text == ":" and i - since <= 2:
        return False
    if text in ENDS or (text in NO and after in OPENERS):
        return True  # "I haven't no the cuff broke"
    if text in LINKED and words[i - 1].text in OBJECTS:
        return True  # "has not applied anything to the [rash]"
    if text == "," and after in DEGREES:
        return further not in ("menstrual", "bleeding", "periods", "flow")  # "no tobacco, occasional alcohol"
    if text == "there" and after in ("is", "are", "was", "were") and i - since > 2:
        return True
    if text == "," and after == "with" and not spoken:
        return True  # "no hemoptysis, with nocturnal wheezing"
    if text in (",", "and", "or") and (after in AFFIRMING or after in SUBJECTS):
        return spoken or after not in ("my", "his", "her", "the") or further in AFFIRMING
    if not spoken:
        return text in VERBS and i - since > 1
    if text in ("just", "only", "some"):
        return True
    thinks = since + 1 <= i and words[since + 1].text in THINKING
    return text in ("i", "he", "she", "i'm", "i've", "it's") and i - since > 2 and not thinks


def judged_good(words: Sequence[Word], last: int, end: int, kind: str) -> bool:
    """Whether words right after a name deny it or call it normal: "[cough] is denied", "[neck] is fine"."""
    for i in range(last, min(last + REACH_GOOD, end)):
        text = words[i].text
        after = words[i + 1].text if i + 1 < end else ""
        if text == "no" and after in ("", ","):
            return True  # "Chickenpox no."
        if text == "not" and i > last:
            return after in NOT_THERE
        if text in GOOD and (kind in ("symptom", "condition") or (kind != "procedure" and text in DENIED)):
            return {"isn't", "aren't", "wasn't", "never"}.isdisjoint(texts_of(words, last, i))
        if text == "," and i == last and after in DENIED:
            return kind != "procedure"
        if text not in LINKS and text != ":":
            return False
    return False
