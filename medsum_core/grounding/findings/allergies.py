"""Allergies: is the note's "allergic to penicillin" or "NKDA" what the dialogue says?

A substance that the patient takes without trouble is none, though it is named: "I had a Z-Pak and no problem."
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from typing import Literal

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import Finding, FindingScan
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.reading import REACTIONS
from medsum_core.grounding.findings.relatives import PATIENT, UNKNOWN
from medsum_core.grounding.findings.scope import NEGATIONS, Sentence
from medsum_core.grounding.findings.stems import stem

Allergy = Literal["supported", "not_found", "contradicted"]
TO = bag("to : include including of with both and , ( either")
REACTED = bag(
    "hives rash swelling swollen swelled itch itchy itches itching itched anaphylaxis wheeze wheezed allergy allergic "
    "reacted reaction reacts react broke break blister blisters blistered puffed puffs closed closes tight cramps "
    "vomited problem trouble skin sick red fat burn burned burns fire scratched raw bumps welts ambulance er epipen "
    "adrenaline collapsed scared avoid avoids careful confused oozes swells sneeze scaly"
)
CAUSING = bag("cause caused causes causing provoke provoked provokes")
TOO_WIDE = bag("medication allergen food allergy")
TOLERATED = [tuple(phrase.split()) for phrase in (
    "not a problem", "passed the challenge", "outgrew", "grew out", "off the list", "eats it now", "every friday",
    "every sunday", "no problem", "no problems", "no trouble", "no bother", "no reaction", "no hives", "no rash",
    "no issue", "no issues", "without problem", "don't bother", "doesn't bother", "didn't bother", "not bother",
    "bother me no", "never bothered", "is fine", "are fine", "is okay", "are okay", "okay with", "fine with",
    "good with", "fine too", "every day", "every week", "every night", "all the time", "loads of", "of times",
    "it plenty", "them plenty", "many times", "nothing happens",
    "nothing happened", "not a thing", "never a", "never any", "doesn't do anything", "don't do anything",
    "did nothing", "does nothing", "for years", "a whole", "on the bed", "that is a no", "not an allergy",
    "negative", "goes down fine", "not a true allergy", "does fine", "do fine", "did fine", "does well", "tolerate",
    "tolerates", "isn't an allergy", "can take", "can have",
)]  # fmt: skip
DRUGS = bag("drug medication medicine nkda nkma")
TRIGGER = bag("attributed trigger triggered triggers provoked worsened caused brought set")
HARM = bag(  # what a note calls a reaction
    "itching pruritus hives urticaria rash swelling angioedema anaphylaxis blistering blisters wheezing dermatitis "
    "flushing eruption welts"
)
FROM, HARM_REACH = bag("from after with to by on"), 9
ASKED_OF = bag("trouble problem problems itch itchy hives rash bother bothers sensitive tolerate swell swelled")
TROUBLE = bag("trouble problem problems react reacted reaction reactions")
TREATMENTS = bag("epinephrine antihistamine steroid bronchodilator albuterol diphenhydramine")
TURNS_AFTER, SENTENCES_AFTER = 3, 5
SOURCES = ("medication", "allergen")


def names_allergen(finding: Finding, note: FindingScan) -> bool:
    """Whether a note says that someone is allergic to a finding, or is not: "allergic to X", "X allergy"."""
    if finding.kind not in SOURCES and not finding.names[0].endswith("vaccine"):
        return False
    words = note.words
    sentence = note.sentence_of(finding)
    if any(words[i].text in CAUSING for i in range(finding.last, sentence.last)):
        return NEGATIONS.isdisjoint(words[i].text for i in range(sentence.first, finding.first))
    if finding.kind == "allergen" and TRIGGER & {words[i].text for i in range(sentence.first, finding.first)}:
        return True
    if _is_of_reaction([words[i].text for i in range(sentence.first, finding.first)]):
        return True
    if not finding.allergy:
        return False
    if finding.last < sentence.last and words[finding.last].stem in REACTIONS:
        return True
    before = [i for i in range(sentence.first, finding.first) if words[i].stem in REACTIONS]
    if not before:
        return False
    if words[before[-1] - 1].text == "no" and words[before[-1]].stem == "reaction":
        return False
    after = words[before[-1] + 1].text if before[-1] + 1 < finding.first else ":"
    between = {words[i].text for i in range(before[-1], finding.first)}
    between -= {"for"} if "positive" in between else set()
    return (after in TO or "positive" in between) and not between & {"for", "takes", "uses", "on", "but", "with"}


def _is_of_reaction(before: Sequence[str]) -> bool:
    """Whether the words before a substance say that it does harm: "oral itching from", "blistered after peeling"."""
    places = [k for k, text in enumerate(before) if text in HARM]
    if not places or NEGATIONS & set(before):
        return False
    after = before[places[-1] + 1 :]
    linked = next((k for k, text in enumerate(after) if text in FROM), len(after))
    return linked < len(after) <= HARM_REACH and not {",", ";", "and"} & set(after[linked:])


def is_adverse_effect(finding: Finding, note: FindingScan) -> bool:
    """Whether a note says that a drug causes what is no allergy: "prednisone is causing increased appetite"."""
    after = {word.text for word in note.words[finding.last : note.sentence_of(finding).last]}
    return finding.kind == "medication" and not CAUSING.isdisjoint(after) and REACTED.isdisjoint(after)


def judge_allergen(finding: Finding, index: FindingIndex) -> tuple[Allergy, int | None]:
    """The verdict on an allergen of a note, and the turn that says it or the opposite."""
    wider = {up for name in finding.names for up in index.lexicon.ancestors[name]} - TOO_WIDE
    wider -= {
        up for up in wider if index.once(("which", up, finding.names), partial(_is_told_which, up, finding, index))
    }
    said = index.named(finding.names) or index.exact(wider)
    if not said:
        paraphrases = index.in_paraphrase(finding.names, "")
        return ("supported", paraphrases[0][0]) if paraphrases else ("not_found", None)
    if finding.assertion == "denied":
        return "supported", said[0].turn
    shown = [_shown(other, index) for other in said]
    if not any(shown) and any(_shown(other, index) == "tolerates" for other in index.exact(wider)):
        return "contradicted", said[0].turn  # "I'm good with antibiotics."
    for other, verdict in zip(said, shown, strict=True):
        if verdict == "reacts" or (verdict is None and "tolerates" not in shown):
            return "supported", other.turn
    return "contradicted", said[-1].turn


def _is_told_which(kind: str, finding: Finding, index: FindingIndex) -> bool:
    """Whether the dialogue names another member of a kind than the finding: "an ointment? Neosporin"."""
    named = (name for other in index.by_name.get(kind, ()) for name in other.names)
    return any(name != kind and kind in index.lexicon.ancestors[name] for name in named if name not in finding.names)


def _shown(finding: Finding, index: FindingIndex) -> Literal["reacts", "tolerates"] | None:
    """Whether the dialogue shows that somebody reacts to a substance, or that it does him no harm; None if neither."""
    if finding.inverted and finding.tolerated is not None:
        return "tolerates" if finding.tolerated else "reacts"
    if _answers_with(finding, index):
        return "reacts"
    words = index.scan.words
    texts: list[str] = []
    denied = finding.assertion == "denied"
    reacts = finding.reply is not None and finding.assertion == "present" and finding.subject in (PATIENT, UNKNOWN)
    refused = finding.reply is not None and index.is_refused(finding)
    denied = denied or (refused and _asks_of_trouble(finding, index))
    for sentence in _about(finding, index):
        here = [words[i].text for i in range(sentence.first, sentence.last) if words[i].text != ","]
        here = " ".join(here).replace("'s ", " is ").split()  # "gold's okay"
        if any(sentence.first <= i < sentence.last for i, _ in index.scan.kin):
            continue
        texts += here
        asks = sentence.asks or (refused and sentence.first <= finding.first)
        reacts = reacts or (not asks and _tells_of_reaction(here))
    if any(_has(texts, phrase) for phrase in TOLERATED) or (denied and not reacts):
        return "tolerates"
    return "reacts" if reacts else None


def _asks_of_trouble(finding: Finding, index: FindingIndex) -> bool:
    """Whether a question is if a substance did harm, so that "No" says it did none: "Any trouble with the dye?"."""
    own = index.scan.sentence_of(finding)
    return not TROUBLE.isdisjoint(index.scan.words[i].text for i in range(own.first, own.last))


def _answers_with(finding: Finding, index: FindingIndex) -> bool:
    """Whether a patient names it when asked for his allergies, and does not take it back in the same turn."""
    if finding.assertion != "present" or not finding.turn or index.turns[finding.turn].is_clinician:
        return False
    words = index.scan.words
    asked, own = ([words[i] for i in range(*index.scan.turns[turn])] for turn in (finding.turn - 1, finding.turn))
    texts = [word.text for word in own if word.text != ","]
    borne = any(_has(texts, phrase) for phrase in TOLERATED) or not NEGATIONS.isdisjoint(texts)
    return not borne and any(word.stem in REACTIONS for word in asked)


def _tells_of_reaction(texts: Sequence[str]) -> bool:
    return any(text in REACTED and not NEGATIONS & set(texts[max(k - 3, 0) : k]) for k, text in enumerate(texts))


def _about(finding: Finding, index: FindingIndex) -> list[Sentence]:
    """The sentence of a substance and those after it, until another substance is named."""
    own = index.scan.sentence_of(finding)
    others = index.once(("other sources", *finding.names), lambda: _other_sources(finding, index))
    reach = min(others[bisect_left(others, own.last) :][:1], default=len(index.scan.words))
    later = [
        s for k in range(TURNS_AFTER + 1) for s in index.sentences_of.get(finding.turn + k, ()) if s.first > own.first
    ]
    return [own, *[s for s in later if s.last <= reach][:SENTENCES_AFTER]]


def _other_sources(finding: Finding, index: FindingIndex) -> list[int]:
    return [o.first for o in index.scan.findings if o.kind in SOURCES and set(o.names).isdisjoint(finding.names)]


def judge_no_allergies(finding: Finding, note: FindingScan, index: FindingIndex) -> tuple[Allergy, int | None]:
    """The verdict on "NKDA", "no drug allergies"."""
    of_drugs = DRUGS & {note.words[i].text for i in range(max(finding.first - 1, 0), finding.last)}
    kinds = ("medication",) if of_drugs else SOURCES
    named = [other for other in index.scan.findings if other.kind in kinds and not _is_tolerated(other, index)]
    for other in named:
        own = _sentences(other, index)
        stems = {index.scan.words[i].stem for s in own for i in range(s.first, s.last)}
        by_patient = not index.turns[other.turn].is_clinician
        if (
            by_patient
            and other.assertion == "present"
            and other.reply is None
            and stems & {stem(word) for word in REACTED}
            and not any(TREATMENTS & index.lexicon.ancestors[name] for name in other.names)
        ):
            return "contradicted", other.turn
    about = index.exact(("allergy",))
    if about:
        return "supported", about[0].turn
    stems_known = any(word in index.turns_of for word in REACTIONS) or index.says(ASKED_OF)
    return ("supported", None) if stems_known else ("not_found", None)


def _sentences(finding: Finding, index: FindingIndex) -> list[Sentence]:
    """The sentence of a finding and the one after it, or the answer to it."""
    own = index.sentences_of[finding.turn]
    k = next(k for k, s in enumerate(own) if s.first <= finding.first < s.last)
    found = own[k : k + 2]
    last_said = k == len(own) - 1 and index.turns[finding.turn].is_clinician
    if own[k].asks or finding.reply is not None or last_said:
        found = [own[k], *index.sentences_of.get(finding.turn + 1, [])[:2]]
    return found


def _is_tolerated(finding: Finding, index: FindingIndex) -> bool:
    """Whether the dialogue denies an allergy to it, or says that it does no harm."""
    if finding.inverted:
        return finding.tolerated is True
    if finding.assertion == "denied":
        return True
    words = index.scan.words
    texts = [words[i].text for s in _sentences(finding, index) for i in range(s.first, s.last) if words[i].text != ","]
    return any(_has(texts, phrase) for phrase in TOLERATED)


def _has(texts: Sequence[str], phrase: Sequence[str]) -> bool:
    return any(tuple(texts[k : k + len(phrase)]) == tuple(phrase) for k in range(len(texts)))
