"""The verdicts on allergies of a note: "allergic to penicillin", "NKDA".

A substance that the dialogue names as tolerated is no allergen: "I had a Z-Pak and no problem."
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Literal

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.finding import NOT_FOUND, SUPPORTED, Finding, FindingScan, Judged
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.lexicon import TABLES, lines_of
from medsum_core.grounding.findings.persons import MAY_BE_PATIENT
from medsum_core.grounding.findings.reading import REACTIONS
from medsum_core.grounding.findings.relatives import PATIENT_OR_UNKNOWN
from medsum_core.grounding.findings.replies import read_reply, says_all_is_well
from medsum_core.grounding.findings.scope import NEGATIONS, Sentence
from medsum_core.grounding.findings.stems import Word, texts_of

LIST_WORDS = word_set("to : include including of with both and , ( either")  # after "allergic", before an allergen
REACTION_WORDS = word_set(  # of a dialogue
    "hives rash swelling swollen swelled itch itchy itches itching itched anaphylaxis wheeze wheezed allergy allergic "
    "reacted reaction reacts react broke break blister blisters blistered puffed puffs closed closes tight cramps "
    "vomited problem trouble skin sick red fat burn burned burns fire scratched raw bumps welts ambulance er epipen "
    "adrenaline collapsed scared avoid avoids careful confused oozes swells sneeze scaly"
)
CAUSING = word_set("cause caused causes causing provoke provoked provokes")
# Before what is no allergen: "allergic to sulfa but takes [aspirin]".
LIST_ENDS = word_set("for takes uses on but with")
TOO_BROAD = word_set("medication allergen food allergy")  # concepts that support no single allergen
TRIGGERING = word_set("attributed trigger triggered triggers provoked worsened caused brought set")
TAKE_VERBS = word_set("take tolerate eat use handle")
TOLERANCE_WORDS = word_set("okay ok fine alright tolerating tolerate")
DRUG_WORDS = word_set("drug medication medicine nkda nkma")
REACTION_NOUNS = word_set(  # of a note
    "itching pruritus hives urticaria rash swelling angioedema anaphylaxis blistering blisters wheezing dermatitis "
    "flushing eruption welts"
)
REACTION_LINKS, LINK_REACH = word_set("from after with to by on"), 9
ALLERGY_TOPIC = word_set(  # a dialogue with one of them discusses allergies
    "trouble problem problems itch itchy hives rash bother bothers sensitive tolerate swell swelled"
)
COPULAS = word_set("is are was were be been it's went goes")  # before "fine", "grand": tolerated
WELL = word_set("fine okay ok alright good grand great lovely well perfect safe")
PROBLEM_WORDS = word_set("trouble problem problems react reacted reaction reactions")
REACTION_TREATMENTS = word_set("epinephrine antihistamine steroid bronchodilator albuterol diphenhydramine")
TURNS_AFTER, SENTENCES_AFTER = 3, 5
ALLERGEN_KINDS = ("medication", "allergen")


def names_allergen(finding: Finding, note: FindingScan) -> bool:
    """Whether a finding of a note is the allergen of an allergy, affirmed or denied: "allergic to X", "X allergy"."""
    if finding.kind not in ALLERGEN_KINDS and not finding.names[0].endswith("vaccine"):
        return False
    words, sentence = note.words, note.sentence_of(finding)
    earlier = texts_of(words, sentence.first, finding.first)
    if not CAUSING.isdisjoint(texts_of(words, finding.last, sentence.last)):
        return NEGATIONS.isdisjoint(earlier)
    if _follows_reaction(earlier) or (finding.kind == "allergen" and TRIGGERING & set(earlier)):
        return True
    if not finding.allergy:
        return False
    if finding.last < sentence.last and words[finding.last].stem in REACTIONS:
        return True
    reaction = next((i for i in range(finding.first - 1, sentence.first - 1, -1) if words[i].stem in REACTIONS), None)
    if reaction is None or (words[reaction].stem == "reaction" and words[reaction - 1].text == "no"):
        return False
    after = words[reaction + 1].text if reaction + 1 < finding.first else ":"
    return after in LIST_WORDS and LIST_ENDS.isdisjoint(texts_of(words, reaction, finding.first))


def _follows_reaction(before: Sequence[str]) -> bool:
    """Whether the words before a substance name a reaction to it: "oral itching from", "hives after peeling"."""
    positions = [k for k, text in enumerate(before) if text in REACTION_NOUNS]
    if not positions or NEGATIONS & set(before):
        return False
    after = before[positions[-1] + 1 :]
    linked = next((k for k, text in enumerate(after) if text in REACTION_LINKS), len(after))
    return linked < len(after) <= LINK_REACH and not {",", ";", "and"} & set(after[linked:])


def is_adverse_effect(finding: Finding, note: FindingScan) -> bool:
    """Whether a note says that a drug causes something other than an allergy: "prednisone is causing acne"."""
    after = set(texts_of(note.words, finding.last, note.sentence_of(finding).last))
    return finding.kind == "medication" and bool(CAUSING & after) and not REACTION_WORDS & after


def is_other_reaction(finding: Finding, note: FindingScan, index: FindingIndex) -> bool:
    """Whether a note's reaction to a drug is, in the dialogue, to another one: "erythromycin caused [a rash]".

    The dialogue must name another reaction to the drug, and this one only away from it.
    """
    sentence = note.sentence_of(finding)
    drugs = [one for one in note.between(sentence.first, finding.first) if one.kind in ALLERGEN_KINDS]
    drug = next((one for one in reversed(drugs) if names_allergen(one, note)), None)
    if drug is None or finding.kind != "symptom" or finding.assertion != "present":
        return False
    contexts = [_context(other, index) for other in index.named(drug.names)]
    about = [s for own, *later in contexts for s in (own, *(s for s in later if not s.asks))]
    stated = (one for s in about for one in index.scan.between(s.first, s.last))
    reactions = {one.first for one in stated if one.kind == "symptom" and one.assertion == "present"}
    elsewhere = {one.first for one in index.named(finding.names)}
    return bool(reactions and elsewhere) and reactions.isdisjoint(elsewhere)


def judge_allergen(finding: Finding, index: FindingIndex) -> Judged:
    """The verdict on an allergen of a note."""
    broader = {concept for name in finding.names for concept in index.lexicon.ancestors[name]} - TOO_BROAD
    broader -= {
        concept
        for concept in broader
        if index.cached(("is specified", concept, finding.names), partial(_is_specified, concept, finding, index))
    }
    evidence = index.named(finding.names) or index.exact(broader)
    if not evidence:
        paraphrases = index.in_paraphrase(finding.names, "")
        return Judged("supported", paraphrases[0][0]) if paraphrases else NOT_FOUND
    if finding.assertion == "denied" or finding.subject not in (*PATIENT_OR_UNKNOWN, *MAY_BE_PATIENT):
        return Judged("supported", evidence[0].turn)
    reactions = [_reaction_to(other, index) for other in evidence]
    is_record = [index.turns[other.turn].is_clinician for other in evidence]
    corrected = ("tolerates", False) in zip(reactions, is_record, strict=True)
    for other, reaction, of_record in zip(evidence, reactions, is_record, strict=True):
        if corrected and of_record:
            continue  # the patient corrects the record: "They tested it and I'm not allergic after all."
        if reaction == "reacts" or (reaction is None and "tolerates" not in reactions):
            return Judged("supported", other.turn)
    return Judged("contradicted", evidence[-1].turn)


def _is_specified(kind: str, finding: Finding, index: FindingIndex) -> bool:
    """Whether the dialogue specifies a broader concept, but not as the finding: "an ointment? Neosporin"."""
    named = (name for other in index.by_name.get(kind, ()) for name in other.names)
    return any(name != kind and kind in index.lexicon.ancestors[name] for name in named if name not in finding.names)


def _reaction_to(finding: Finding, index: FindingIndex) -> Literal["reacts", "tolerates"] | None:
    """Whether, by the dialogue, someone reacts to a substance or tolerates it; None if unclear."""
    if _answers_allergy_question(finding, index):
        return "reacts"
    if finding.reply is not None and _asks_if_tolerated(finding, index):
        answer = index.scan.turns[finding.reply]
        reply = "yes" if says_all_is_well(index.scan.words, *answer) else read_reply(index.scan.words, *answer)[0]
        if reply in ("yes", "no"):
            return "tolerates" if reply == "yes" else "reacts"
    words, context = index.scan.words, ""
    reacts = finding.reply is not None and finding.assertion == "present"
    answered_no = finding.reply is not None and index.is_answered_no(finding)
    denied = finding.assertion == "denied" or (answered_no and _asks_about_problems(finding, index))
    for sentence in _context(finding, index):
        if index.scan.kin_between(sentence.first, sentence.last):
            continue
        text = _normalized(words, sentence.first, sentence.last)
        context += text
        asks = sentence.asks or (answered_no and sentence.first <= finding.first)
        reacts = reacts or (not asks and _has_reaction(text.split()))
    if _is_tolerated(context) or (denied and not reacts):
        return "tolerates"
    return "reacts" if reacts else None


def _asks_if_tolerated(finding: Finding, index: FindingIndex) -> bool:
    """Whether a question asks if a substance is tolerated: "Can you take aspirin?", "Okay with sulfa?"."""
    own = index.scan.sentence_of(finding)
    texts = set(texts_of(index.scan.words, own.first, own.last))
    return bool(TOLERANCE_WORDS & texts) or (bool(TAKE_VERBS & texts) and bool({"can", "could"} & texts))


def _asks_about_problems(finding: Finding, index: FindingIndex) -> bool:
    """Whether a question asks about problems with a substance, so that "No" means tolerated: "Any trouble with it?"."""
    own = index.scan.sentence_of(finding)
    return not PROBLEM_WORDS.isdisjoint(texts_of(index.scan.words, own.first, own.last))


def _answers_allergy_question(finding: Finding, index: FindingIndex) -> bool:
    """Whether a patient answers a question about allergies with this substance, in a turn without a negation."""
    if finding.assertion != "present" or not finding.turn or index.turns[finding.turn].is_clinician:
        return False
    words = index.scan.words
    question, own = index.scan.turns[finding.turn - 1], index.scan.turns[finding.turn]
    negated = _is_tolerated(_normalized(words, *own)) or not NEGATIONS.isdisjoint(texts_of(words, *own))
    return not negated and any(word.stem in REACTIONS for word in words[slice(*question)])


def _has_reaction(texts: Sequence[str]) -> bool:
    """Whether a sentence has a reaction word without a negation right before it."""
    return any(text in REACTION_WORDS and not NEGATIONS & set(texts[max(k - 3, 0) : k]) for k, text in enumerate(texts))


def _context(finding: Finding, index: FindingIndex) -> list[Sentence]:
    """The sentence of a substance and a few after it, until another substance is named."""
    own = index.scan.sentence_of(finding)
    others = index.cached(("other substances", *finding.names), lambda: _other_substances(finding, index))
    end = min(others[bisect_left(others, own.last) :][:1], default=len(index.scan.words))
    later = [
        s
        for k in range(TURNS_AFTER + 1)
        for s in index.scan.sentences_of.get(finding.turn + k, ())
        if s.first > own.first
    ]
    return [own, *[s for s in later if s.last <= end][:SENTENCES_AFTER]]


def _other_substances(finding: Finding, index: FindingIndex) -> list[int]:
    return [o.first for o in index.scan.findings if o.kind in ALLERGEN_KINDS and set(o.names).isdisjoint(finding.names)]


def judge_no_allergies(finding: Finding, note: FindingScan, index: FindingIndex) -> Judged:
    """The verdict on a denial of all allergies, or of those to drugs or food: "NKDA", "no drug allergies"."""
    texts = set(texts_of(note.words, max(finding.first - 1, 0), finding.last))
    kinds = ("medication",) if DRUG_WORDS & texts else ("allergen",) if "food" in texts else ALLERGEN_KINDS
    for other in index.scan.findings:
        stated = other.kind in kinds and other.assertion == "present" and other.reply is None
        stated = stated and not any(REACTION_TREATMENTS & index.lexicon.ancestors[name] for name in other.names)
        if stated and not index.turns[other.turn].is_clinician and _reaction_to(other, index) == "reacts":
            return Judged("contradicted", other.turn)
    is_discussed = any(word in index.turns_of for word in REACTIONS) or index.has_word(ALLERGY_TOPIC)
    return SUPPORTED if is_discussed else NOT_FOUND


def _is_tolerated(text: str) -> bool:
    """Whether a text says that a substance does no harm: with a phrase of the table, or "it [was grand]"."""
    texts = text.split()
    well = (pair for pair in zip(texts, [*texts[1:], ""], [*texts[2:], "", ""], strict=False) if pair[0] in COPULAS)
    return any(WELL & set(pair[1:]) for pair in well) or any(f" {phrase} " in text for phrase in _tolerated())


@lru_cache(maxsize=1)
def _tolerated() -> tuple[str, ...]:
    return tuple(phrase for line in lines_of(TABLES / "tolerated.tsv") for phrase in line.split("|"))


def _normalized(words: Sequence[Word], first: int, last: int) -> str:
    """The words as one text between spaces, without commas, and with "is" for "'s": "gold is okay"."""
    texts = [text for text in texts_of(words, first, last) if text != ","]
    return " ".join(["", *texts, ""]).replace("'s ", " is ")
