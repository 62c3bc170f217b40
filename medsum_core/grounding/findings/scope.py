"""What a sentence says of the findings in it: denied, uncertain, past, planned; where a negation begins and ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.stems import Word

NEGATIONS = bag(
    "no not never none nothing without denies denied deny denying declines declined declining refuses negative "
    "neither nor nobody don't doesn't didn't haven't hasn't hadn't isn't wasn't aren't weren't ain't free absent "
    "absence lack nope nah unaware unremarkable non dont doesnt didnt havent hasnt isnt cannot can't couldn't won't "
    "wouldn't never's ruled excluded"
)
UNABLE = bag("cannot can't couldn't won't wouldn't")  # they deny what follows only with one of ABLE
ABLE = bag("feel see find think say recall remember")
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
    begin = max(sentence.first, first - 6)
    near = [words[k].text for k in range(begin, first)]
    if "," in near:
        near = near[len(near) - near[::-1].index(",") :]
    return (
        "besides" in near
        or ("than" in near and "other" in near)
        or ("from" in near and bool({"aside", "apart"} & set(near)))
    )


class Scopes(NamedTuple):
    """For each word of a sentence (by index in the text): whether a negation, doubt, past or plan holds there."""

    denied: frozenset[int]
    neutral: frozenset[int]  # in the scope of a negation that denies something else ("no change in")
    unsure: frozenset[int]
    past: frozenset[int]
    planned: frozenset[int]


def read_scopes(words: Sequence[Word], sentence: Sentence, *, spoken: bool) -> Scopes:
    """One pass over the sentence from left to right."""
    denied, neutral = _negated(words, sentence, SCOPE_SPOKEN if spoken else SCOPE_WRITTEN, spoken=spoken)
    marks = []
    for bag_of in (UNSURE, PAST, PLANS):
        held = set()
        since = -1
        for i in range(sentence.first, sentence.last):
            if words[i].text in bag_of and not _is_sure(words, i, sentence):
                since = i
            elif words[i].text in (";", "but", "however") or (
                since >= 0 and words[since].text in SELDOM and words[i].text in (",", "and")
            ):
                since = -1
            if since >= 0:
                held.add(i)
        marks.append(held)
    clause_past = _before_marks(words, sentence, PAST)
    return Scopes(*(frozenset(held) for held in (denied, neutral, marks[0], marks[1] | clause_past, marks[2])))


def _is_sure(words: Sequence[Word], i: int, sentence: Sentence) -> bool:
    """Whether word i is no mark: the "could" of "all she [could] tell", "since [May]", "a [baby] aspirin"."""
    before = words[i - 1].text if i > sentence.first else ""
    after = words[i + 1].text if i + 1 < sentence.last else ""
    if words[i].text in CHILDHOOD:
        return GROWING.isdisjoint(words[k].text for k in range(max(sentence.first, i - 4), i))
    if words[i].text == "could":
        return after not in ("be", "have", "also", "still", "well")
    return words[i].text == "may" and before in MONTH_LEADS


def _before_marks(words: Sequence[Word], sentence: Sentence, bag_of: frozenset[str]) -> set[int]:
    """Words before a mark of the past in their clause: "the pain went away years [ago]"."""
    held: set[int] = set()
    begin = sentence.first
    for i in range(sentence.first, sentence.last):
        if words[i].text in (",", ";", "but", "however"):
            begin = i + 1
        elif words[i].text in bag_of:
            held.update(range(begin, i))
            begin = i
    return held


def _negated(words: Sequence[Word], sentence: Sentence, reach: int, *, spoken: bool) -> tuple[set[int], set[int]]:
    denied: set[int] = set()
    neutral: set[int] = set()
    held: set[int] | None = None
    since = listed = sentence.first
    for i in range(sentence.first, sentence.last):
        text = words[i].text.removesuffix("'s")
        after = words[i + 1].text if i + 1 < sentence.last else ""
        if _begins(words[i - 1].text if i else "", text, after, held is not None, opens=spoken and i == sentence.first):
            held, since = (neutral if _denies_else(words, i, sentence.last) else denied), i
        elif held is not None and _ends(words, i, since, sentence, spoken=spoken):
            held = None
        if held is not None and text in (",", "or", "nor"):
            listed = i
        if held is not None and i - max(since, listed) > reach:
            held = None
        if held is not None:
            held.add(i)
    return denied, neutral


def _begins(before: str, text: str, after: str, inside: bool, *, opens: bool) -> bool:
    if text in UNABLE:
        return after in ABLE
    if text in ("no", "nope", "nah") and after == "," and opens:
        return False  # "Cancer?" "No, Graves'."
    if text == "ruled":
        return after == "out"
    if text == "free":
        return after == "of"
    if text == "non" and after not in ("cigarette", "smoking", "tobacco", "alcohol", "drug"):
        return False  # "a non-contact injury", "a non-healing wound"
    if text == "not" and before == "or":
        return False  # "whether or not"
    if text in ("no", "nope", "nah") and after in OPENERS:
        return False  # "No I have a migraine", "no the cuff broke"
    return text in NEGATIONS and not (inside and text in ("nor", "or"))


def _denies_else(words: Sequence[Word], i: int, end: int) -> bool:
    """Whether the negation at word i denies a change, a need, a degree, and not what follows."""
    near = [words[k].text for k in range(i + 1, min(i + 3, end))]
    clause = next((k for k in range(i + 1, end) if words[k].text == "but"), end)
    later = {words[k].text for k in range(i + 1, min(i + 12, clause))}
    if later & {"like", "until"}:
        return True  # "I have never felt palpitations like this"
    if words[i].text in ("denies", "denied", "denying", "deny", "without", "negative", "never"):
        near = near[1:] if near[:1] == ["any"] else near[:1]
        return bool(near) and near[0] in NEUTRAL_AFTER
    return any(text in NEUTRAL_AFTER for text in near)


def _ends(words: Sequence[Word], i: int, since: int, sentence: Sentence, *, spoken: bool) -> bool:
    text = words[i].text
    after = words[i + 1].text if i + 1 < sentence.last else ""
    if text == ":" and i - since <= 2:
        return False
    if text in ENDS or (text in ("no", "nope", "nah") and after in OPENERS):
        return True  # "I haven't no the cuff broke"
    if text in LINKED and words[i - 1].text in OBJECTS:
        return True  # "has not applied anything to the [rash]"
    thinks = words[since + 1].text in ("think", "believe", "know", "recall", "remember") if since + 1 <= i else False
    if text == "," and after in DEGREES:
        further = words[i + 2].text if i + 2 < sentence.last else ""
        return further not in ("menstrual", "bleeding", "periods", "flow")  # "no tobacco, occasional alcohol"
    if text == "there" and after in ("is", "are", "was", "were") and i - since > 2:
        return True
    if text == "," and after == "with" and not spoken:
        return True  # "no hemoptysis, with nocturnal wheezing"
    if text in (",", "and", "or") and (after in AFFIRMING or after in SUBJECTS):
        further = words[i + 2].text if i + 2 < sentence.last else ""
        return not (after in ("my", "his", "her", "the") and not spoken) or further in AFFIRMING
    if (spoken and text in ("just", "only", "some")) or (
        text in AFFIRMING and text[-1] in "sd" and not spoken and i - since > 1
    ):
        return text not in ("is", "was", "has", "does", "did")
    return spoken and text in ("i", "he", "she", "i'm", "i've", "it's") and i - since > 2 and not thinks


def judged_good(words: Sequence[Word], last: int, end: int, kind: str) -> bool:
    """Whether words right after a name deny it or call it normal: "[cough] is denied", "[neck] is fine"."""
    for i in range(last, min(last + REACH_GOOD, end)):
        text = words[i].text
        if text == "no" and (i + 1 == end or words[i + 1].text == ","):
            return True  # "Chickenpox no."
        if text == "not" and i > last:
            return words[min(i + 1, end - 1)].text in NOT_THERE
        if text in GOOD and (
            kind in ("symptom", "condition") or (text in ("denied", "none", "negative") and kind != "procedure")
        ):
            return not any(words[k].text in ("isn't", "aren't", "wasn't", "never") for k in range(last, i))
        if text == "," and i == last and i + 1 < end and words[i + 1].text in ("denies", "denied", "none", "negative"):
            return kind != "procedure"
        if text not in LINKS and text != ":":
            return False
    return False
