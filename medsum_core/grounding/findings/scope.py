"""Scopes in a sentence: which words are negated, uncertain, past or planned (after NegEx and ConText).

A cue is a word that opens a scope ("no", "possible", "previously", "will"). A pseudo-negation ("no change in the pain")
opens a scope too, but does not deny the finding in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.stems import Word, texts_of

NEGATIONS = word_set(
    "no not never none nothing without denies denied deny denying declines declined declining refuses negative "
    "neither nor nobody don't doesn't didn't haven't hasn't hadn't isn't wasn't aren't weren't ain't free absent "
    "absence lack nope nah unaware unremarkable non dont doesnt didnt havent hasnt isnt cannot can't couldn't won't "
    "wouldn't never's ruled excluded"
)
PERCEPTION_VERBS = word_set("feel see find think say recall remember")
NEGATES_ONLY_BEFORE: Mapping[str, frozenset[str]] = {  # words that negate only directly before one of these
    **dict.fromkeys(("cannot", "can't", "couldn't", "won't", "wouldn't"), PERCEPTION_VERBS),
    "ruled": word_set("out"),
    "free": word_set("of"),
    "non": word_set("cigarette smoking tobacco alcohol drug"),  # not "a non-contact injury"
}
PSEUDO_NEGATED = word_set(  # after a negation these make it a pseudo-negation: "no change in the pain"
    "change changes improvement relief increase increased worsening better worse help helped helping improve improved "
    "improving responding respond response resolved go going away gotten controlled control stop stopped doubt only "
    "effect benefit matter sure certain know remember recall idea question need worry worried bad much worried mind "
    "clue recurrence necessarily well fully completely entirely always quite significant significantly other new "
    "recent recently acute additional recurrent currently further more longer clearly treated affect affected "
    "limited until yet gone able really like want himself herself myself themselves yourself right"
)
SCOPE_ENDS = word_set(
    "but however although though except besides because which until unless instead rather ; : since "
    "bar secondary due despite while whereas then so therefore aside apart whose who"
)
INDEFINITE_OBJECTS = word_set(
    "anything nothing medication medications medicine medicines treatment information advice help reaction reactions"
)
OBJECT_PREPOSITIONS = word_set("to for on about")
CLAUSE_SUBJECTS = word_set(
    "i he she it they we you patient there my his her i'm i've he's she's it's they're we're that's i'd the"
)
AFFIRMING_VERBS = word_set(
    "reports reported report admits admitted endorses endorsed complains complained presents presented has had have "
    "states stated notes noted is was are were positive shows showed revealed reveals uses takes continues describes "
    "just only mostly mainly maybe some experiences developed does did"
)
RECENT_TIMES = word_set("night evening day week weekend few couple two three")  # "last night" is not over
BEFORE_MONTH = word_set("in since last of until till by from this next early late")
# "As a kid", "when I was a child" are past; other uses of these words are not.
CHILDHOOD, CHILDHOOD_LEADS = word_set("child kid baby"), word_set("as was were since")
RARITY_CUES = word_set("hardly rarely seldom barely scarcely occasionally occasional minimal")
UNCERTAINTY_CUES = RARITY_CUES | word_set(
    "leaning wonder wondered thinks reckons wonders wondering possible possibly probable probably likely "
    "suspect suspected suspicion maybe might may could perhaps questionable concern concerning concerned rule "
    "if risk whether unclear unsure versus vs consider considered worry worried worries wish potential "
    "differential suggestive prevent prevention avoid screen screening case return watch"
)
PAST_CUES = word_set(
    "used stopped stop stops quit discontinued discontinue former formerly resolved gone prior previous previously "
    "history hx past ago childhood child kid baby finished completed weaned off once before earlier last anymore "
    "subsided disappeared cured remission cleared outgrew grew held hold "
)
PLAN_CUES = word_set(
    "will going gonna let's lets schedule scheduled order ordered refer referred recommend recommended recommend "
    "we'll i'll plan planned should prescribe prescribed consider advised advise need needs want like start begin "
    "follow upcoming tomorrow next suggest suggested get"
)
DEGREES = word_set(  # after a comma they end a negation: "no tobacco, occasional alcohol"
    "two three several multiple occasional rare social some mild moderate heavy positive intermittent "
    "questionable questionably"
)
GOOD = word_set(  # after a name they deny it or call it normal: "[cough] denied", "[neck] is fine"
    "fine normal okay ok good clear clean unremarkable intact negative none denied absent gone spared great "
    "perfect healthy excluded free ruled"
)
NEGATED_PREDICATES = word_set(  # "[rash] was not seen"
    "present there noted seen found implicated involved used taken reported appreciated endorsed"
)
COPULAS = word_set(  # words that can stand between a name and the word that denies it
    "there is are was were be been look looks looked feel feels felt seem seems all "
    "still just pretty now both has have not testing test tested screen screening"
)
SCOPE_SPOKEN, SCOPE_WRITTEN = 12, 60  # most words of a negation scope since its cue or its last list item
PREDICATE_REACH = 4  # words after a name
CONTRASTS = (";", "but", "however")  # these end every scope
NO = ("no", "nope", "nah")
OPINION_VERBS = ("think", "believe", "know", "recall", "remember")  # "I don't think he has a fever"
DENYING_PREDICATES = ("denied", "denies", "none", "negative")
VERBS = frozenset(word for word in AFFIRMING_VERBS if word[-1] in "sd") - word_set("is was has does did")
# After "no" they begin a clause, so that "no" is an answer and negates nothing: "No I have a migraine".
CLAUSE_OPENERS = word_set("i i'm i've he she it it's they we that's the my")


class Sentence(NamedTuple):
    """Words `[first, last)`; `asks`: it is a question; `turn`: its turn in the dialogue, 0 in a note."""

    first: int
    last: int
    asks: bool
    turn: int


ABBREVIATIONS = word_set("dr mr mrs ms st vs jr sr approx")


LONGEST_SENTENCE = 300  # words; rules look at a whole sentence for each of its findings


def split_sentences(words: Sequence[Word], first: int, last: int, turn: int) -> list[Sentence]:
    """The sentences of words `[first, last)`, each without its final punctuation mark, a very long one in parts."""
    sentences = []
    begin = first
    for i in range(first, last):
        if i - begin == LONGEST_SENTENCE:
            sentences.append(Sentence(begin, i, False, turn))
            begin = i
        if words[i].text not in (".", "?", "!", "\n"):
            continue
        abbreviated = words[i].text == "." and i > begin and _may_be_abbreviation(words[i - 1].text)
        if abbreviated and i + 1 < last and words[i + 1].text != "\n" and words[i - 1].text != "i":
            continue
        if i > begin:
            sentences.append(Sentence(begin, i, words[i].text == "?", turn))
        begin = i + 1
    if last > begin:
        sentences.append(Sentence(begin, last, False, turn))
    return sentences


def _may_be_abbreviation(text: str) -> bool:
    """Whether a full stop after a word may belong to an abbreviation: "Dr.", the "b" of "b.i.d."."""
    return text in ABBREVIATIONS or (len(text) == 1 and text.isalnum())


def is_set_aside(words: Sequence[Word], sentence: Sentence, first: int) -> bool:
    """Whether word `first` is named only as an exception: "Besides the [pain], any other problems?"."""
    near = texts_of(words, max(sentence.first, first - 6), first)
    near = near[next((k + 1 for k in range(len(near) - 1, -1, -1) if near[k] == ","), 0) :]
    return "besides" in near or {"than", "other"}.issubset(near) or {"from", "aside"}.issubset(near)


class Scopes(NamedTuple):
    """The words of a sentence (by index in the text) that are in a scope of each kind."""

    denied: frozenset[int]
    neutral: frozenset[int]  # in the scope of a pseudo-negation ("no change in")
    unsure: frozenset[int]
    past: frozenset[int]
    planned: frozenset[int]


def read_scopes(words: Sequence[Word], sentence: Sentence, *, spoken: bool) -> Scopes:
    """The scopes of a sentence. `spoken`: it is of a dialogue, where negation scopes are shorter."""
    denied, neutral = _negated(words, sentence, spoken=spoken)
    kinds = (UNCERTAINTY_CUES, PAST_CUES, PLAN_CUES)
    unsure, past, planned = (frozenset(_after_cues(words, sentence, cues)) for cues in kinds)
    return Scopes(denied, neutral, unsure, past | _before_past_cues(words, sentence), planned)


def _after_cues(words: Sequence[Word], sentence: Sentence, cues: frozenset[str]) -> Iterator[int]:
    """The words from a cue to "but" or the sentence end; the scope of "rarely" ends at the next comma or "and"."""
    since = ""
    for i in range(sentence.first, sentence.last):
        text = words[i].text
        if text in cues and not _is_false_cue(words, i, sentence):
            since = text
        elif text in CONTRASTS or (since in RARITY_CUES and text in (",", "and")):
            since = ""
        if since:
            yield i


def _is_false_cue(words: Sequence[Word], i: int, sentence: Sentence) -> bool:
    """Whether word i looks like a cue but is none: "all she [could] tell", "since [May]", "a [baby] aspirin"."""
    text = words[i].text
    if text in CHILDHOOD:
        return CHILDHOOD_LEADS.isdisjoint(texts_of(words, max(sentence.first, i - 4), i))
    if text == "last":
        return not RECENT_TIMES.isdisjoint(texts_of(words, i + 1, min(i + 2, sentence.last)))
    if text == "could":
        return texts_of(words, i + 1, min(i + 2, sentence.last)) not in (
            ["be"],
            ["have"],
            ["also"],
            ["still"],
            ["well"],
        )
    return text == "may" and i > sentence.first and words[i - 1].text in BEFORE_MONTH


def _before_past_cues(words: Sequence[Word], sentence: Sentence) -> frozenset[int]:
    """The words before a cue of the past in its clause: "the pain went away years [ago]"."""
    scope: set[int] = set()
    begin = sentence.first
    for i in range(sentence.first, sentence.last):
        if words[i].text in (",", *CONTRASTS):
            begin = i + 1
        elif words[i].text in PAST_CUES and not _is_false_cue(words, i, sentence):
            scope.update(range(begin, i))
            begin = i
    return frozenset(scope)


def _negated(words: Sequence[Word], sentence: Sentence, *, spoken: bool) -> tuple[frozenset[int], frozenset[int]]:
    """The words in the scope of a negation, and those in the scope of a pseudo-negation."""
    limit = SCOPE_SPOKEN if spoken else SCOPE_WRITTEN
    denied: set[int] = set()
    neutral: set[int] = set()
    scope: set[int] | None = None
    since = listed = sentence.first
    for i in range(sentence.first, sentence.last):
        text = words[i].text.removesuffix("'s")
        if _starts_scope(words, i, text, sentence, inside=scope is not None, spoken=spoken):
            scope, since = (neutral if _is_pseudo_negation(words, i, sentence.last) else denied), i
        elif scope is not None and _ends_scope(words, i, since, sentence, spoken=spoken):
            scope = None
        listed = i if text in (",", "or", "nor") else listed
        if scope is not None and i - max(since, listed) > limit:
            scope = None
        if scope is not None:
            scope.add(i)
    return frozenset(denied), frozenset(neutral)


def _starts_scope(words: Sequence[Word], i: int, text: str, sentence: Sentence, *, inside: bool, spoken: bool) -> bool:
    after = words[i + 1].text if i + 1 < sentence.last else ""
    if text in NEGATES_ONLY_BEFORE:
        return after in NEGATES_ONLY_BEFORE[text]
    if text in NO and (after in CLAUSE_OPENERS or (after == "," and spoken and i == sentence.first)):
        return False  # "No I have a migraine", "No, Graves'."
    if text == "not" and i and words[i - 1].text == "or":
        return False  # "whether or not"
    return text in NEGATIONS and not (inside and text == "nor")


def _is_pseudo_negation(words: Sequence[Word], i: int, end: int) -> bool:
    """Whether the negation at word i denies a change, a need or a degree, and not the finding after it."""
    clause = next((k for k in range(i + 1, end) if words[k].text == "but"), end)
    if {"like", "until"} & set(texts_of(words, i + 1, min(i + 12, clause))):
        return True  # "I have never felt palpitations like this"
    near = texts_of(words, i + 1, min(i + 3, end))
    if words[i].text in ("denies", "denied", "denying", "deny", "without", "negative", "never"):
        near = near[1:] if near[:1] == ["any"] else near[:1]
    return not PSEUDO_NEGATED.isdisjoint(near)


def _ends_scope(words: Sequence[Word], i: int, since: int, sentence: Sentence, *, spoken: bool) -> bool:
    text, ahead = words[i].text, texts_of(words, i + 1, min(i + 3, sentence.last))
    after, further = (*ahead, "", "")[:2]
    if text == ":" and i - since <= 2:
        return False
    if text in SCOPE_ENDS or (text in NO and after in CLAUSE_OPENERS):
        return True  # "I haven't no the cuff broke"
    if text in OBJECT_PREPOSITIONS and words[i - 1].text in INDEFINITE_OBJECTS:
        return True  # "has not applied anything to the [rash]"
    if text == "," and after in DEGREES:
        return further not in ("menstrual", "bleeding", "periods", "flow")  # "no tobacco, occasional alcohol"
    if text == "there" and after in ("is", "are", "was", "were") and i - since > 2:
        return True
    if text == "," and after == "with" and not spoken:
        return True  # "no hemoptysis, with nocturnal wheezing"
    if text in (",", "and", "or") and (after in AFFIRMING_VERBS or after in CLAUSE_SUBJECTS):
        return spoken or after not in ("my", "his", "her", "the") or further in AFFIRMING_VERBS
    if not spoken:
        return text in VERBS and i - since > 1
    if text in ("just", "only", "some"):
        return True
    has_opinion_verb = since + 1 <= i and words[since + 1].text in OPINION_VERBS
    return text in ("i", "he", "she", "i'm", "i've", "it's") and i - since > 2 and not has_opinion_verb


def is_denied_or_normal(words: Sequence[Word], last: int, end: int, kind: str) -> bool:
    """Whether words right after a name deny it or call it normal: "[cough] is denied", "[neck] is fine"."""
    for i in range(last, min(last + PREDICATE_REACH, end)):
        text = words[i].text
        after = words[i + 1].text if i + 1 < end else ""
        if text == "no" and after in ("", ","):
            return True  # "Chickenpox no."
        if text == "," and after == "no" and i + 2 == end:
            return True  # "Blood, no."
        if text == "not" and i > last:
            return after in NEGATED_PREDICATES
        if text in GOOD and (kind in ("symptom", "condition") or (kind != "procedure" and text in DENYING_PREDICATES)):
            return {"isn't", "aren't", "wasn't", "never"}.isdisjoint(texts_of(words, last, i))
        if text == "," and i == last and after in DENYING_PREDICATES:
            return kind != "procedure"
        if text not in COPULAS and text != ":":
            return False
    return False
