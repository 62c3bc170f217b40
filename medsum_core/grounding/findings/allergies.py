"""Allergies: is the note's "allergic to penicillin" or "NKDA" what the dialogue says?

A substance that the patient takes without trouble is none, though it is named: "I had a Z-Pak and no problem."
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Literal

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import Finding, FindingScan
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.lexicon import TABLES, lines_of
from medsum_core.grounding.findings.reading import REACTIONS
from medsum_core.grounding.findings.replies import read_reply, says_well
from medsum_core.grounding.findings.scope import NEGATIONS, Sentence
from medsum_core.grounding.findings.stems import Word, texts_of

Allergy = Literal["supported", "not_found", "contradicted"]
TO = bag("to : include including of with both and , ( either")
REACTED = bag(
    "hives rash swelling swollen swelled itch itchy itches itching itched anaphylaxis wheeze wheezed allergy allergic "
    "reacted reaction reacts react broke break blister blisters blistered puffed puffs closed closes tight cramps "
    "vomited problem trouble skin sick red fat burn burned burns fire scratched raw bumps welts ambulance er epipen "
    "adrenaline collapsed scared avoid avoids careful confused oozes swells sneeze scaly"
)
CAUSING = bag("cause caused causes causing provoke provoked provokes")
BUT_OTHERS = bag("for takes uses on but with")  # "allergic to sulfa but takes [aspirin]"
TOO_WIDE = bag("medication allergen food allergy")
TRIGGER = bag("attributed trigger triggered triggers provoked worsened caused brought set")
TAKEN, WELL = bag("take tolerate eat use handle"), bag("okay ok fine alright tolerating tolerate")
DRUGS = bag("drug medication medicine nkda nkma")
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
    words, sentence = note.words, note.sentence_of(finding)
    earlier = texts_of(words, sentence.first, finding.first)
    if not CAUSING.isdisjoint(texts_of(words, finding.last, sentence.last)):
        return NEGATIONS.isdisjoint(earlier)
    if _is_of_reaction(earlier) or (finding.kind == "allergen" and TRIGGER & set(earlier)):
        return True
    if not finding.allergy:
        return False
    if finding.last < sentence.last and words[finding.last].stem in REACTIONS:
        return True
    named = next((i for i in range(finding.first - 1, sentence.first - 1, -1) if words[i].stem in REACTIONS), None)
    if named is None or (words[named].stem == "reaction" and words[named - 1].text == "no"):
        return False
    after = words[named + 1].text if named + 1 < finding.first else ":"
    return after in TO and BUT_OTHERS.isdisjoint(texts_of(words, named, finding.first))


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
    after = set(texts_of(note.words, finding.last, note.sentence_of(finding).last))
    return finding.kind == "medication" and bool(CAUSING & after) and not REACTED & after


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
    if _answers_with(finding, index):
        return "reacts"
    if finding.reply is not None and _asks_if_borne(finding, index):
        answer = index.scan.turns[finding.reply]
        reply = "yes" if says_well(index.scan.words, *answer) else read_reply(index.scan.words, *answer)[0]
        if reply in ("yes", "no"):
            return "tolerates" if reply == "yes" else "reacts"
    words, told = index.scan.words, ""
    reacts = finding.reply is not None and finding.assertion == "present"
    refused = finding.reply is not None and index.is_refused(finding)
    denied = finding.assertion == "denied" or (refused and _asks_of_trouble(finding, index))
    for sentence in _about(finding, index):
        if index.scan.kin_between(sentence.first, sentence.last):
            continue
        here = _phrases(words, sentence.first, sentence.last)
        told += here
        asks = sentence.asks or (refused and sentence.first <= finding.first)
        reacts = reacts or (not asks and _tells_of_reaction(here.split()))
    if _is_borne(told) or (denied and not reacts):
        return "tolerates"
    return "reacts" if reacts else None


def _asks_if_borne(finding: Finding, index: FindingIndex) -> bool:
    """Whether a question is if a substance is borne: "Can you take aspirin?", "Okay with sulfa?"."""
    own = index.scan.sentence_of(finding)
    texts = set(texts_of(index.scan.words, own.first, own.last))
    return bool(WELL & texts) or (bool(TAKEN & texts) and bool({"can", "could"} & texts))


def _asks_of_trouble(finding: Finding, index: FindingIndex) -> bool:
    """Whether a question is if a substance did harm, so that "No" says it did none: "Any trouble with the dye?"."""
    own = index.scan.sentence_of(finding)
    return not TROUBLE.isdisjoint(texts_of(index.scan.words, own.first, own.last))


def _answers_with(finding: Finding, index: FindingIndex) -> bool:
    """Whether a patient names it when asked for his allergies, and does not take it back in the same turn."""
    if finding.assertion != "present" or not finding.turn or index.turns[finding.turn].is_clinician:
        return False
    words = index.scan.words
    asked, own = index.scan.turns[finding.turn - 1], index.scan.turns[finding.turn]
    borne = _is_borne(_phrases(words, *own)) or not NEGATIONS.isdisjoint(texts_of(words, *own))
    return not borne and any(word.stem in REACTIONS for word in words[slice(*asked)])


def _tells_of_reaction(texts: Sequence[str]) -> bool:
    return any(text in REACTED and not NEGATIONS & set(texts[max(k - 3, 0) : k]) for k, text in enumerate(texts))


def _about(finding: Finding, index: FindingIndex) -> list[Sentence]:
    """The sentence of a substance and those after it, until another substance is named."""
    own = index.scan.sentence_of(finding)
    others = index.once(("other sources", *finding.names), lambda: _other_sources(finding, index))
    reach = min(others[bisect_left(others, own.last) :][:1], default=len(index.scan.words))
    later = [
        s
        for k in range(TURNS_AFTER + 1)
        for s in index.scan.sentences_of.get(finding.turn + k, ())
        if s.first > own.first
    ]
    return [own, *[s for s in later if s.last <= reach][:SENTENCES_AFTER]]


def _other_sources(finding: Finding, index: FindingIndex) -> list[int]:
    return [o.first for o in index.scan.findings if o.kind in SOURCES and set(o.names).isdisjoint(finding.names)]


def judge_no_allergies(finding: Finding, note: FindingScan, index: FindingIndex) -> tuple[Allergy, int | None]:
    """The verdict on "NKDA", "no drug allergies"."""
    named = set(texts_of(note.words, max(finding.first - 1, 0), finding.last))
    kinds = ("medication",) if DRUGS & named else ("allergen",) if "food" in named else SOURCES
    for other in index.scan.findings:
        told = other.kind in kinds and other.assertion == "present" and other.reply is None
        told = told and not any(TREATMENTS & index.lexicon.ancestors[name] for name in other.names)
        if told and not index.turns[other.turn].is_clinician and _shown(other, index) == "reacts":
            return "contradicted", other.turn
    asked = any(word in index.turns_of for word in REACTIONS) or index.says(ASKED_OF)
    return ("supported", None) if asked else ("not_found", None)


def _is_borne(told: str) -> bool:
    return any(f" {phrase} " in told for phrase in _tolerated())


@lru_cache(maxsize=1)
def _tolerated() -> tuple[str, ...]:
    return tuple(phrase for line in lines_of(TABLES / "tolerated.tsv") for phrase in line.split("|"))


def _phrases(words: Sequence[Word], first: int, last: int) -> str:
    """Words to look phrases up in: without commas, "gold's okay" as "gold is okay"."""
    texts = [text for text in texts_of(words, first, last) if text != ","]
    return " ".join(["", *texts, ""]).replace("'s ", " is ")
