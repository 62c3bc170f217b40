"""Questions and their answers: "Any fever or chills?" "No." denies two; "No, the right one." denies none.

First the form of a question (open, closed, with alternatives; about the patient or the family), then the polarity of
an answer: by its first word ("Yes", "Never"), by its verb ("I do", "It's fine"), or as a plain statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.scope import NEGATIONS, Sentence
from medsum_core.grounding.findings.stems import Word, texts_of

Reply = Literal["yes", "no", "corrected", "unknown", "other"]

OPENING_FILLERS = word_set(
    "um uh oh well ah hmm so and but , . okay ok i mean you know actually honestly let me see hm er god doctor sir"
)
YES = word_set(
    "yes yeah yep yup yea ya mm uh-huh uhhuh correct right sure definitely absolutely exactly "
    "always often constantly certainly indeed mhm aye affirmative plenty lots terrible terribly quite very some little "
    "couple once twice both same too pretty mostly usually unfortunately"
)
NUMBER_WORDS = word_set(  # "Ever smoked?" "Twenty years of it." "Since I was ten."
    "one two three four five six seven eight ten twelve fifteen twenty thirty forty fifty half since every"
)
AMOUNTS = word_set("little bit lot few couple ton while pack packs quarter half dozen six glass beer cup bottle case")
AGREEMENT = word_set("yes yeah yep yup correct right exactly sure mm mhm yea true")
NO = word_set("no nope nah never none nothing neither negative nobody not without don't haven't didn't nor none")
NO_VERBS = word_set(
    "don't haven't didn't doesn't hasn't isn't wasn't can't couldn't won't hadn't aren't weren't not never wouldn't"
)
YES_VERBS = word_set(
    "do have did am was does has is can would could must feel get got had think guess believe take suppose"
)
STATE_VERBS = word_set("feel feels am is are look looks seem seems do does been sleep eat")
PRONOUNS = word_set(  # an answer that begins with one is read by its verb: "I do."
    "i it he she they we that there it's that's i'm he's she's i've they're there's"
)
SUBJECT_CONTRACTIONS = word_set("it's that's i'm he's she's they're")
BARE_ANSWERS: Mapping[str, Reply] = {"no": "no", "nope": "no", "nah": "no", "yes": "yes", "yeah": "yes", "yep": "yes"}
TWO_WORD_ANSWERS: Mapping[tuple[str, ...], Reply] = {
    ("uh", "uh"): "no", ("mm", "mm"): "no", ("nuh", "uh"): "no", ("unh", "unh"): "no", ("hm", "mm"): "no",
    ("uh", "huh"): "yes", ("mm", "hm"): "yes", ("mm", "hmm"): "yes", ("of", "course"): "yes",
}  # fmt: skip
# As the last word of an opening these are the answer, or its subject ("I").
NOT_FILLERS_ALONE = word_set("i okay ok so you")
NOT_KNOWING = word_set("know sure remember recall idea")  # after a negation
FINE = word_set("fine normal okay ok good clear great regular alright perfect clean spared")
ALL_WELL_WORDS = word_set(
    "baby log top clockwork clock horse ox rain bell whistle daisy dream perfect perfectly fantastic strong works "
    "working"
)
# "Not much.", "Not when I bend it." are neither yes nor no.
UNDECIDED_AFTER_NOT = word_set("only just too much bad great good well ideal when if unless")
CORRECTION_LEADS = word_set("the a an it's its they're just only on this")  # after "No,"
DETAIL_WORDS = word_set("one left right other side first")
QUESTION_WORDS = word_set("how what when where which who why what's how's where's how'd what'd why'd how're what're")
AUXILIARIES = word_set("do does did have has had are is was were can could")
DEFINITE = word_set("the this that your his her these those")
UNDECIDED_WORDS = word_set(  # with one of these a statement does not count as yes
    "know sure remember recall idea tell maybe perhaps possibly might wonder guess depends hope should could would "
    "used before ago last thought gone super grand lovely brilliant wonderful wish quit mean said same okay ok"
)
FAMILY_WORDS = word_set("family anyone anybody relatives people relations who folks around")
PATIENT_WORDS = word_set("you you're you've yourself your")
PUNCTUATION = (",", ".", "!", ";")
TIME_CONJUNCTIONS, TIME_REACH = word_set("when after since while before during"), 3  # words before a finding
NEAR = 6  # words at the beginning of an answer that decide its polarity
STATEMENT_REACH = 20  # words of an answer that is a plain statement
OKAY_QUESTION = 3  # most words of "Hear okay?", whose last word is no tag question
SHORT_QUESTION = 8  # most words of a question without a question mark: "Any fevers."


def is_question(words: Sequence[Word], sentence: Sentence, *, is_clinician: bool) -> bool:
    """Whether a sentence is a question; a clinician's "Any fevers." is one without a question mark."""
    if sentence.asks:
        is_tag = words[sentence.last - 1].text in ("okay", "ok", "alright")  # "We'll do an X-ray, okay?"
        return not is_tag or sentence.last - sentence.first <= OKAY_QUESTION
    if not is_clinician:
        return False
    i = sentence.first
    while i + 1 < sentence.last and words[i].text in OPENING_FILLERS - {"i", "you"}:
        i += 1
    first, second = words[i].text, words[min(i + 1, sentence.last - 1)].text
    asked = first in AUXILIARIES and second not in NEGATIONS and second not in (",", ".", "a")
    return asked or (first in ("any", "how", "what") and sentence.last - i <= SHORT_QUESTION)


def asks_if_still(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether "No." to a question means that a finding is past: "Are you still vomiting?"."""
    texts = set(texts_of(words, sentence.first, sentence.last))
    return bool(texts & {"still", "anymore", "again"}) or {"any", "more"} <= texts


def asks_of_family(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a question is about the family: "Does anyone have asthma?"."""
    return not FAMILY_WORDS.isdisjoint(texts_of(words, sentence.first, sentence.last))


def asks_of_patient(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a question is about the patient: "And you?"."""
    return not PATIENT_WORDS.isdisjoint(texts_of(words, sentence.first, sentence.last))


def is_full_question(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a sentence is a complete yes-no question, so that the next answer is to it: "Do you need more?"."""
    return sentence.asks and words[sentence.first].text in AUXILIARIES and sentence.last - sentence.first > 2


def asks_openly(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a question is open (how, what, when), so that "No." denies none of its findings; not "what about"."""
    texts = texts_of(words, sentence.first, min(sentence.first + 4, sentence.last))
    k = next((k for k, text in enumerate(texts) if text not in OPENING_FILLERS), len(texts))
    after = words[sentence.first + k + 1].text if sentence.first + k + 1 < sentence.last else ""
    return k < len(texts) and texts[k] in QUESTION_WORDS and after not in ("about", "of")


def presupposes(words: Sequence[Word], sentence: Sentence, first: int, *, phrase: bool, actionable: bool) -> bool:
    """Whether a question presupposes its finding at word `first`: "Is the [pain] there at night?".

    `phrase`: as of a `Finding`; `actionable`: the finding is a drug or a procedure.
    """
    before = words[first - 1].text if first > sentence.first else ""
    if actionable and before in ("to", "with", "from", "of", "about", "after"):
        return True  # "any problems with metformin?"
    later = texts_of(words, first + 1, min(first + 5, sentence.last))
    if before == "other" or "else" in later or "elsewhere" in later:
        return True  # "any other pain?", "pain anywhere else?"
    if TIME_CONJUNCTIONS & set(texts_of(words, max(sentence.first + 1, first - TIME_REACH), first)):
        return True  # "Did you pass out when you fell?"
    if before in ("your", "his", "her") and not phrase:
        return False  # "Does your chest hurt?"
    earlier = words[first - 2].text if first > sentence.first + 1 else ""
    return before in DEFINITE and earlier not in ("have", "had", "got", "get", "has")


def offers_alternatives(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a question offers alternatives: "From gallstones or from drink?", "Is it dull or sharp?"."""
    texts = texts_of(words, sentence.first, sentence.last)
    asks_what_it_is = texts[0] in ("is", "was", "are") and texts[1:2] in (["it"], ["that"], ["they"])
    return "or" in texts and (asks_what_it_is or texts[0] in ("from", "with", "after"))


def read_reply(words: Sequence[Word], first: int, last: int) -> tuple[Reply, bool]:
    """The answer in words `[first, last)`, and whether it only agrees ("Right."), even with a negative question.

    "corrected": it denies a detail of the question and not the finding ("No, the right one."). "unknown": it leaves the
    answer open ("Not sure."). "other": it does not begin with an answer.
    """
    i = first
    while i < last and words[i].text in OPENING_FILLERS and not (words[i].text in NOT_FILLERS_ALONE and i + 1 == last):
        i += 1
    opening = TWO_WORD_ANSWERS.get(tuple(texts_of(words, first, min(last, first + 2))))
    if opening is not None and not (last > first + 2 and words[first + 2].text in YES | NO):
        return opening, False
    if i >= last:
        return ("yes", True) if first < last and words[first].text in ("okay", "ok") else ("other", False)
    begin = i - 1 if i > first and words[i - 1].text == "i" else i
    near = texts_of(words, begin, min(begin + NEAR, last))
    if words[i].text.removesuffix("'s") in NO:
        mixed = {"yes", "yeah", "yep"} & set(texts_of(words, i + 1, last))  # "No. No. There, yes."
        return "unknown" if mixed else _from_negative(words, i, last, near), False
    if words[begin].text in PRONOUNS:
        return _from_verb(
            [text for text in near if text != ","], closed=begin + 2 >= last or words[begin + 2].text in PUNCTUATION
        )
    return _from_first_word(words, i, last, near)


def read_each(words: Sequence[Word], first: int, last: int) -> list[Reply]:
    """The answers of a turn that answers several questions in order ("No. Yes, sometimes. And no."); [] otherwise."""
    found: list[Reply] = []
    ends = [*(i for i in range(first, last) if words[i].text in (".", ",", "!")), last]
    for begin, end in zip([first, *(i + 1 for i in ends)], ends, strict=False):
        texts = [text for text in texts_of(words, begin, end) if text not in ("and", "then", "to", "the")]
        if texts and texts[0] in BARE_ANSWERS:
            found.append(BARE_ANSWERS[texts[0]])
        elif begin == first:
            return []
    return found if len(set(found)) > 1 else []


def _from_first_word(words: Sequence[Word], i: int, last: int, near: Sequence[str]) -> tuple[Reply, bool]:
    text, after = words[i].text, words[i + 1].text if i + 1 < last else ""
    begins = set(near[:4])
    if after == "not" and text in YES:
        return "no", False  # "Absolutely not."
    if text in AGREEMENT:
        further = [one for one in texts_of(words, i + 1, min(i + 5, last)) if one not in (",", ".", "still")]
        has_verb = len(further) > 1 and further[0] in PRONOUNS and further[1] in YES_VERBS
        return "yes", not has_verb
    if text in NUMBER_WORDS | YES or (text == "a" and after in AMOUNTS):
        return "yes", False
    if "no" in begins:
        return "no", False
    if {"yes", "yeah", "yep"} & begins or "times" in near[1:2]:
        return "yes", False
    if text in ("not", "maybe", "possibly", "perhaps"):
        return "unknown", False
    return "no" if begins & FINE and not begins & NO else "other", False


def _from_negative(words: Sequence[Word], i: int, last: int, near: Sequence[str]) -> Reply:
    text, after = words[i].text, words[i + 1].text if i + 1 < last else ""
    if near[:2] in (["not", "that"], ["not", "a"]):
        return "no"  # "Not that I know.", "Not a one."
    if (text == "not" or text in NO_VERBS) and set(near[:4]) & NOT_KNOWING:
        return "unknown"
    if text == "not" and after in UNDECIDED_AFTER_NOT:
        return "other"
    further = texts_of(words, i + 2, min(i + 7, last))
    if text in ("no", "nope") and after == "," and further and further[0] in CORRECTION_LEADS:
        replaces_it = further[0] in ("it's", "its", "they're") and further[1:2] in (
            ["the"],
            ["my"],
            ["on"],
            ["in"],
            ["more"],
            ["a"],
        )
        return "corrected" if replaces_it or DETAIL_WORDS & set(further) else "no"  # "A full stroke?" "No, a mini one."
    return "no"


def _from_verb(near: Sequence[str], *, closed: bool) -> tuple[Reply, bool]:
    """The answer of "I do.", "I haven't.", "It's fine."; `closed`: punctuation follows its first two words."""
    near = near[: next((k for k, text in enumerate(near) if text in (".", "?", "!", ";", "but")), len(near))]
    found = set(near)
    if found & (NOT_KNOWING - {"idea"}) and found & NO_VERBS:
        return "unknown", False
    if not (NO_VERBS | NO).isdisjoint(near[:4]):
        return "no", False
    if found & FINE and (near[0] in SUBJECT_CONTRACTIONS or STATE_VERBS & set(near[1:3])):
        return "no", False
    if near[0] in ("there's", "there") and {"one", "some", "a", "two", "always"} & set(near[1:3]):
        return "yes", False  # "There's one on my heel."
    if near[0] == "that's" and found & AGREEMENT:
        return "yes", True
    verb = len(near) > 1 and near[1] in YES_VERBS
    further = near[2:3] and near[2] in ("so", "that", "it", "some", "them", "those", "too", "both", "had", "been")
    return "yes" if near[0] == "i've" or (verb and (closed or len(near) <= 3 or further)) else "other", False


def says_all_is_well(words: Sequence[Word], first: int, last: int) -> bool:
    """Whether an answer says that all is well: "Sleeping?" "Like a baby.", "Blood pressure okay?" "Always perfect."."""
    texts = [text for text in texts_of(words, first, min(last, first + NEAR)) if text != ","]
    end = next((k for k, text in enumerate(texts) if text in (".", "!", "?", "but")), len(texts))
    opening = set(texts[:end])
    return bool(opening & (ALL_WELL_WORDS | FINE)) and not opening & (NEGATIONS | NO)


def is_plain_statement(words: Sequence[Word], first: int, last: int) -> bool:
    """Whether an answer without yes or no is a statement that can imply yes: "It goes right across the kitchen."."""
    end = next((k for k in range(first, last) if words[k].text in (".", "?", "!", "\n")), last)
    asks = end < last and words[end].text == "?"
    return (
        not asks
        and end > first
        and (UNDECIDED_WORDS | NEGATIONS | FINE).isdisjoint(texts_of(words, first, min(last, first + STATEMENT_REACH)))
    )


def opens_with_no(words: Sequence[Word], first: int, last: int) -> bool:
    """Whether a turn opens with "No", "Nope" or "Never" after words like "oh"; not "Oh no, what now?"."""
    i = next((k for k in range(first, last) if words[k].text not in OPENING_FILLERS), last)
    opening = [text for text in texts_of(words, first, first + 4) if text not in ("!", ",")]
    exclaims = opening[:2] == ["oh", "no"] and (opening[2:3] in ([], ["."]) or "?" in texts_of(words, first, last))
    if i == last or exclaims:
        return False
    polite = i + 1 < last and words[i + 1].text in ("problem", "worries", "thanks", "thank")
    return words[i].text in ("no", "nope", "nah", "never") and not polite
