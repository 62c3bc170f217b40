"""Questions and their answers: "Any fever or chills?" "No." denies two; "No, the right one." denies none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.scope import NEGATIONS, Sentence
from medsum_core.grounding.findings.stems import Word

Reply = Literal["yes", "no", "corrected", "unknown", "other"]

LEADS = bag(
    "um uh oh well ah hmm so and but , . okay ok i mean you know actually honestly let me see hm er god doctor sir"
)
SELDOM = bag("hardly rarely seldom barely occasionally sometimes")
YES = bag(
    "yes yeah yep yup yea ya mm uh-huh uhhuh correct right sure definitely absolutely exactly "
    "always often constantly certainly indeed mhm aye affirmative plenty lots terrible terribly quite very some little "
    "couple once twice both same too pretty mostly usually unfortunately"
)
NO = bag("no nope nah never none nothing neither negative nobody not without don't haven't didn't nor none")
NO_VERBS = bag(
    "don't haven't didn't doesn't hasn't isn't wasn't can't couldn't won't hadn't aren't weren't not never wouldn't"
)
YES_VERBS = bag("do have did am was does has is can would could must feel get got had think guess believe take suppose")
FEELING = bag("feel feels am is are look looks seem seems do does been sleep eat")
PRONOUNS = bag("i it he she they we that there it's that's i'm he's she's i've they're")
CAN_STAND_ALONE = bag("i okay ok so you")
SOUNDS: Mapping[tuple[str, ...], Reply] = {  # "mm-mm", "uh-huh"
    ("uh", "uh"): "no", ("mm", "mm"): "no", ("nuh", "uh"): "no", ("unh", "unh"): "no", ("hm", "mm"): "no",
    ("uh", "huh"): "yes", ("mm", "hm"): "yes", ("mm", "hmm"): "yes",
}  # fmt: skip
BARE: Mapping[str, Reply] = {"no": "no", "nope": "no", "nah": "no", "yes": "yes", "yeah": "yes", "yep": "yes"}
COUNTS = bag(  # "Ever smoked?" "Twenty years of it." "Since I was ten."
    "one two three four five six seven eight ten twelve fifteen twenty thirty forty fifty half since every"
)
AMOUNTS = bag("little bit lot few couple ton while pack packs quarter half dozen six glass beer cup bottle case")
QUANTIFIERS, QUANTIFIED = bag("of all every kind sort at"), bag("course time the day night of times least")
UNKNOWN = bag("know sure remember recall idea")
FINE = bag("fine normal okay ok good clear great regular alright perfect clean spared")
WELL_SAID = bag(
    "baby log top clockwork clock horse ox rain bell whistle daisy dream perfect perfectly fantastic strong"
)
SIDES = bag("the left right other just only it's its this that upper lower my")
OPEN = bag("how what when where which who why what's how's where's how'd what'd why'd how're what're")
ABOUT = bag("about of")
AGREES = bag("yes yeah yep yup correct right exactly sure mm mhm yea true")
TURNED = bag("take tolerate eat use handle")  # "Can you take aspirin?" "Sure.": no allergy
WELL = bag("okay ok fine alright tolerating tolerate")
ASKING = bag("do does did have has had are is was were can could")
DEFINITE = bag("the this that your his her these those")
OPENNESS = bag(
    "know sure remember recall idea tell maybe perhaps possibly might wonder guess depends hope should could would "
    "used before ago last thought gone super grand lovely brilliant wonderful wish quit mean said same okay ok"
)
FAMILY_WORDS = bag("family anyone anybody relatives people relations who folks around")
PATIENT_WORDS = bag("you you're you've yourself your")
WHEN, TIMED = bag("when after since while before during"), 3
NEAR = 6
TOLD_REACH = 20  # words of an answer that tells
WELL_ASKED = 3  # words of "Hear okay?"
SHORT_QUESTION = 8  # words


def is_question(words: Sequence[Word], sentence: Sentence, *, is_clinician: bool) -> bool:
    """Whether a sentence asks; a clinician's "Any fevers." does without a question mark."""
    if sentence.asks:
        is_tag = words[sentence.last - 1].text in ("okay", "ok", "alright")  # "We'll do an X-ray, okay?"
        return not is_tag or sentence.last - sentence.first <= WELL_ASKED
    if not is_clinician:
        return False
    i = sentence.first
    while i + 1 < sentence.last and words[i].text in LEADS - {"i", "you"}:
        i += 1
    first, second = words[i].text, words[min(i + 1, sentence.last - 1)].text
    asked = first in ASKING and second not in NEGATIONS and second not in (",", ".", "a")
    return asked or (first in ("any", "how", "what") and sentence.last - i <= SHORT_QUESTION)


def asks_if_still(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a question is about the present only, so that "No." may leave a past: "Are you still vomiting?"."""
    texts = {word.text for word in words[sentence.first : sentence.last]}
    return bool(texts & {"still", "anymore", "again"}) or {"any", "more"} <= texts


def asks_of_family(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a question asks who in the family has it: "Does anyone have asthma?"."""
    return bool(FAMILY_WORDS & {word.text for word in words[sentence.first : sentence.last]})


def turns_to_patient(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a question leaves a relative for the patient: "And you?"."""
    return bool(PATIENT_WORDS & {word.text for word in words[sentence.first : sentence.last]})


def is_full_question(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a sentence is a question with a verb of its own, so that an answer is to it: "Do you need more?"."""
    return sentence.asks and words[sentence.first].text in ASKING and sentence.last - sentence.first > 2


def asks_openly(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a question asks how, what, when, so that "No." would deny none of its words; not "what about"."""
    for i in range(sentence.first, min(sentence.first + 4, sentence.last)):
        if words[i].text in OPEN:
            after = words[i + 1].text if i + 1 < sentence.last else ""
            return after not in ABOUT
        if words[i].text not in LEADS:
            return False
    return False


def presupposes(words: Sequence[Word], sentence: Sentence, first: int, *, phrase: bool, acted: bool) -> bool:
    """Whether a question takes its finding at word `first` for granted: "Is the [pain] there at night?"."""
    before = words[first - 1].text if first > sentence.first else ""
    if acted and before in ("to", "with", "from", "of", "about", "after"):
        return True  # "any problems with metformin?"
    later = [words[k].text for k in range(first + 1, min(first + 5, sentence.last))]
    if before == "other" or "else" in later or "elsewhere" in later:
        return True  # "any other pain?", "pain anywhere else?"
    if {words[k].text for k in range(max(sentence.first + 1, first - TIMED), first)} & WHEN:
        return True  # "Did you pass out when you fell?"
    earlier = words[first - 2].text if first > sentence.first + 1 else ""
    if before in ("your", "his", "her") and not phrase:
        return False  # "Does your chest hurt?"
    return before in DEFINITE and earlier not in ("have", "had", "got", "get", "has")


def offers(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a question offers alternatives: "From gallstones or from drink?", "Is it dull or sharp?"."""
    texts = [word.text for word in words[sentence.first : sentence.last]]
    either = any(
        a in ("a", "an") and "or" in texts[k : k + 6] and "a" in texts[k + 2 : k + 7] for k, a in enumerate(texts)
    )
    led = (
        either
        or texts[0] in ("from", "with", "after")
        or (texts[0] in ("is", "was", "are") and texts[1:2] in (["it"], ["that"], ["they"]))
    )
    return led and "or" in texts


def asks_tolerance(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a question asks if something can be taken: "Can you take aspirin?"."""
    texts = [word.text for word in words[sentence.first : sentence.last]]
    if any(a in ("can", "could") and b in TURNED for a, b in zip(texts, texts[2:], strict=False)):
        return True
    ends = {k for k, after in enumerate([*texts[1:], ""]) if after in ("with", "taking", "on") or (k and not after)}
    well = any(texts[k] in WELL for k in ends)
    return well and not OPEN & set(texts[:3])  # "Are you okay with penicillin?"


def read_reply(words: Sequence[Word], first: int, last: int) -> tuple[Reply, bool]:
    """What the turn of words `[first, last)` answers; and whether it only agrees ("Right.").

    "corrected": "No, the right one.", which denies a detail and no finding.
    """
    i = first
    while i < last and words[i].text in LEADS and not (words[i].text in CAN_STAND_ALONE and i + 1 == last):
        i += 1
    sound = SOUNDS.get(tuple(word.text for word in words[first : min(last, first + 2)]))
    if sound is not None and not (last > first + 2 and words[first + 2].text in YES | NO):
        return sound, False
    if i >= last:
        return ("yes", True) if first < last and words[first].text in ("okay", "ok") else ("other", False)
    begin = i - 1 if i > first and words[i - 1].text == "i" else i
    near = [words[k].text for k in range(begin, min(begin + NEAR, last))]
    if words[i].text in SELDOM:
        return "unknown", False
    if words[i].text.removesuffix("'s") in NO:
        if {"yes", "yeah", "yep"} & {words[k].text for k in range(i + 1, last)}:
            return "unknown", False  # "No. No. There, yes."
        return _negative(words, i, last, near), False
    if words[begin].text in PRONOUNS:
        return _by_verb(words, begin, last)
    return _by_first_word(words, i, last, near)


def read_each(words: Sequence[Word], first: int, last: int) -> list[Reply]:
    """The answers of a turn that answers one question after the other ("No. Yes, sometimes. And no."); [] if not."""
    found: list[Reply] = []
    begin = first
    for i in range(first, last + 1):
        if i < last and words[i].text not in (".", ",", "!"):
            continue
        texts = [word.text for word in words[begin:i] if word.text not in ("and", "then", "to", "the")]
        if texts and texts[0] in BARE:
            found.append(BARE[texts[0]])
        elif begin == first or i == last:
            return found if len(set(found)) > 1 else []
        begin = i + 1
    return found if len(set(found)) > 1 else []


def _by_first_word(words: Sequence[Word], i: int, last: int, near: Sequence[str]) -> tuple[Reply, bool]:
    text, after = words[i].text, words[i + 1].text if i + 1 < last else ""
    if after == "not" and text in YES:
        return "no", False  # "Absolutely not."
    if text in AGREES:
        further = [words[k].text for k in range(i + 1, min(i + 5, last)) if words[k].text not in (",", ".", "still")]
        return "yes", not (further[:1] and further[0] in PRONOUNS and further[1:2] and further[1] in YES_VERBS)
    if text == "like" and after in ("a", "an"):
        return "yes", False  # "Does she snore?" "Like a trucker."
    if (
        text in COUNTS
        or text in YES
        or (text == "a" and after in AMOUNTS)
        or (text in QUANTIFIERS and after in QUANTIFIED)
    ):
        return "yes", False
    if "no" in near[:4]:
        return "no", False
    if {"yes", "yeah", "yep"} & set(near[:4]) or "times" in near[1:2]:
        return "yes", False
    if text in ("not", "maybe", "possibly", "perhaps"):
        return "unknown", False
    return ("no", False) if set(near[:4]) & FINE and not set(near[:4]) & NO else ("other", False)


def says_well(words: Sequence[Word], first: int, last: int) -> bool:
    """Whether an answer says that all is well: "Sleeping?" "Like a baby.", "Blood pressure okay?" "Always perfect."."""
    texts = [words[k].text for k in range(first, min(last, first + NEAR)) if words[k].text != ","]
    end = next((k for k, text in enumerate(texts) if text in (".", "!", "?", "but")), len(texts))
    said = set(texts[:end])
    return bool(said & (WELL_SAID | FINE)) and not said & (NEGATIONS | NO)


def asks_if_well(words: Sequence[Word], sentence: Sentence) -> bool:
    """Whether a question is if all is well: "Blood pressure okay?"."""
    last = words[sentence.last - 1].text if words[sentence.last - 1].text != "?" else words[sentence.last - 2].text
    return last in FINE


def tells(words: Sequence[Word], first: int, last: int) -> bool:
    """Whether an answer without yes or no affirms by telling: "It goes right across the kitchen."."""
    end = next((k for k in range(first, last) if words[k].text in (".", "?", "!", "\n")), last)
    texts = {words[k].text for k in range(first, min(last, first + TOLD_REACH))}
    asks = end < last and words[end].text == "?"
    return not (asks or end == first or texts & OPENNESS or texts & NEGATIONS or texts & FINE)


def opens_with_no(words: Sequence[Word], first: int, last: int) -> bool:
    """Whether a turn opens with "No", "Nope" or "Never" after words like "oh"."""
    i = first
    while i < last and words[i].text in LEADS:
        i += 1
    problem = i + 1 < last and words[i + 1].text in ("problem", "worries", "thanks", "thank")
    opening = [word.text for word in words[first : first + 4] if word.text not in ("!", ",")]
    if opening[:2] == ["oh", "no"] and opening[2:3] in ([], ["."]):
        return False
    return i < last and words[i].text in ("no", "nope", "nah", "never") and not problem


def _negative(words: Sequence[Word], i: int, last: int, near: Sequence[str]) -> Reply:
    text, after = words[i].text, words[i + 1].text if i + 1 < last else ""
    if near[:2] in (["not", "that"], ["not", "a"]):
        return "no"  # "Not that I know.", "Not a one."
    if (text == "not" or text in NO_VERBS) and set(near[:4]) & UNKNOWN:
        return "unknown"
    if text == "not" and after in ("when", "if", "unless"):
        return "other"  # "Not when I bend it, only if I lean on it."
    if text == "not" and after in ("only", "just", "too", "much", "bad", "great", "good", "well", "ideal"):
        return "other"
    if text in ("no", "nope") and after == "," and i + 2 < last:
        further = {word.text for word in words[i + 2 : min(i + 7, last)]}
        begins = words[i + 2].text
        if "first" in further:
            return "corrected"  # "Has he had one before?" "No, this is the first."
        if begins in ("a", "an") and "one" in further:
            return "corrected"  # "A full stroke?" "No, a mini one."
        if begins in ("the", "it's", "just", "only", "its", "on") and further & {
            "one",
            "left",
            "right",
            "other",
            "side",
        }:
            return "corrected"
        after_it = words[i + 3].text if i + 3 < last else ""
        if begins in ("it's", "its", "they're") and after_it in ("the", "my", "on", "in", "more", "a", "an"):
            return "corrected"
    return "no"


def _ends_with_no(words: Sequence[Word], i: int, last: int) -> bool:
    """Whether the sentence from word i on ends with "no": "I've sat and watched, and no."."""
    end = next((k for k in range(i, last) if words[k].text in (".", "?", "!", ";")), last)
    return words[end - 1].text == "no"


def _by_verb(words: Sequence[Word], i: int, last: int) -> tuple[Reply, bool]:
    """The answer of "I do.", "I haven't.", "It's fine.", "I'm not sure."."""
    near = [words[k].text for k in range(i, min(i + NEAR, last)) if words[k].text != ","]
    end = next((k for k, text in enumerate(near) if text in (".", "?", "!", ";", "but")), len(near))
    near = near[:end]
    if {"know", "sure", "remember", "recall"} & set(near) and set(near) & NO_VERBS:
        return "unknown", False
    if any(text in NO_VERBS or text in NO for text in near[:4]):
        return "no", False
    feels = near[0] in ("it's", "that's", "i'm", "he's", "she's", "they're") or set(near[1:3]) & FEELING
    if feels and set(near) & FINE:
        return "no", False
    closed = i + 2 >= last or words[i + 2].text in (",", ".", "!", ";")
    if len(near) > 1 and near[1] in YES_VERBS and (len(near) <= 3 or closed):
        return "yes", False
    if near[0] == "i've":
        return ("no", False) if _ends_with_no(words, i, last) else ("yes", False)
    if near[0] == "that's" and set(near) & AGREES:
        return "yes", True
    if len(near) > 2 and near[1] in ("think", "guess", "believe", "suppose") and near[2] == "so":
        return "yes", False
    if (
        len(near) > 2
        and near[1] in YES_VERBS
        and near[2] in ("that", "it", "some", "them", "those", "too", "both", "had", "been")
    ):
        return "yes", False
    return "other", False
