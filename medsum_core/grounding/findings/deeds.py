"""What a text does with a drug, a test or a habit: started, stopped, kept, raised, lowered, done, planned, declined.

The table holds phrases by deed; "_" stands for up to three words. Longer phrases are read first, each word once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

from medsum_core.grounding.findings.scope import NEGATIONS

Deed = Literal["start", "stop", "keep", "use", "up", "down", "same", "done", "plan", "declined"]

IN_NOTE: Mapping[Deed, str] = {
    "stop": "stop|stopped|stopping|discontinue|discontinued|discontinuing|d c|quit|weaned|weaned off|held|hold|paused|"
    "ceased|cessation|abstinent from|no longer|is off|now off|come off|came off|taken off|dropped|withdrawn|former|"
    "abstains from|replaced by|tapered off|stopping of",
    "keep": "continue|continues|continued|continuing|keep|remain|remains|remaining|stay|stays|maintain|maintained|"
    "still|ongoing|carry on|stable on",
    "use": "takes|taking|take|uses|using|use|treated with|managed with|controlled with|controlled on|is on|"
    "currently on|therapy with|prophylaxis is with|current|currently|on",
    "start": "start|starts|started|starting|begin|begins|began|begun|initiate|initiated|prescribe|prescribed|"
    "prescription|restart|restarted|restarting|resume|resumed|resuming|placed on|put on|added|add|switched to|"
    "changed to|trial of",
    "up": "increase|increased|increasing|raise|raised|double|doubled|uptitrate|titrated up|escalated",
    "down": "decrease|decreased|decreasing|reduce|reduced|lower|lowered|lowering|taper|tapered|tapering|halve|halved|"
    "cut back|cut down|cutting down|down to",
    "same": "unchanged|same dose|no change",
    "done": "completed|received|underwent|performed|administered|obtained|was done|were done|has been done|placed|"
    "was given|were given|given today|has had|had had|status post|s p|got|showed|shows|revealed|up to date|is done",
    "plan": "order|ordered|schedule|scheduled|plan|planned|will|to be|is due|refer|referred|referral|recommend|"
    "recommended|pending|awaiting|awaits|arranged|proceed with|agrees to|agreed to|elects|requested|requests|follow up|"
    "for _ next|at the next|arrange|upcoming|advised|suggested|offered|to discuss|consider|booked",
    "declined": "decline|declined|declines|declining|refuse|refused|refuses|deferred|defer|not started|not be started|"
    "not be restarted|not restarted|never started|never took|decided against|cancelled|canceled|postponed|"
    "not indicated|not needed|not received|did not receive|not had|not obtained|has not had|not taking|does not take|"
    "not done|elects not|elected not|not interested|not wanted|does not want|not filled|never filled|"
    "not necessary|not required",
}
IN_TALK: Mapping[Deed, str] = {
    "stop": "stop|stopped|stopping|quit|come off|came off|coming off|get off|got off|getting off|go off|went off|"
    "you off|me off|him off|her off|off it|off of|off the|off that|off them|been off|done with|no longer|anymore|"
    "used to|weaned|weaned off|ditch|ditched|threw|throw _ away|throw _ out|thrown|hold|held|hold off|pause|paused|"
    "leave off|lay off|stay off|keep off|that's gone|took me off|taken off|discontinue|discontinued|drop the|drop that|"
    "dropped|swap|swapped|switched from|instead of|in the drawer|gave up|given up|give up|packed _ in|ran out|"
    "finished|no more|put down|flushed|quit working|stopped working|cut _ out|out of it|clean|sober",
    "keep": "continue|continuing|keep|keeping|keep on|keep up|keep going|stay on|staying on|stay with|stick with|"
    "stick to|sticking with|carry on|go on with|hang in|stay where|stay right|stay put|maintain|more weeks|more days|"
    "another week|another month|every day still|refill|refills|leave it as|leave that as|never miss|never missed|still",
    "use": "take|takes|taking|use|uses|using|i'm on|he's on|she's on|on it|you're on|they're on|i have",
    "start": "start|starts|started|starting|begin|began|put you on|put me on|put him on|put her on|go on|going on|"
    "try|add|adding|give you|gave me|prescribe|prescribed|write you|call in|calling in|send in|back on|restart|resume|"
    "get you on|switch you to|switch to|change you to|new pill|new prescription|i'll write",
    "up": "go up|going up|went up|goes up|bump|bumped|increase|increased|increasing|raise|raised|double|doubled|"
    "higher dose|up to|up from|turn _ up|push _ up|move _ up|take _ up|bring _ up|add _ more|up the",
    "down": "come down|coming down|came down|go down|going down|went down|cut _ down|cut back|cut _ back|reduce|"
    "reduced|lower|lowered|halve|halved|half the|taper|tapering|bring _ down|take _ down|down to|down on|turn _ down|"
    "less of|cut _ in half|drop _ down",
    "same": "same dose|same amount|no change|leave it alone|leave it be|where it is|as it is|as you are|don't change",
    "done": "had|got|done|did|came back|was normal|were normal|was clear|last week|last month|last year|yesterday|"
    "already|they took|results|this morning|ago|underwent|been through|since the|after the|i've had|it showed|showed|"
    "gave me|stuck me|put in|took out",
    "plan": "will|going to|gonna|let's|we'll|i'll|i'd like|want you|want to|wants|should|need|needs|schedule|scheduled|"
    "order|ordered|send you|sending you|refer|referred|referral|next week|next month|next thursday|next friday|"
    "next monday|next tuesday|next wednesday|tomorrow|not yet|booked|appointment|due|waiting|wait for|on the list|"
    "this afternoon|get you|set you up|set up|line up|arrange|yet to",
    "declined": "don't want|doesn't want|didn't want|won't|no thanks|no thank you|rather not|not interested|don't need|"
    "doesn't need|didn't need|don't think _ need|no need|declined|decline|refuse|refused|said no|turned _ down|"
    "pass on|i'll pass|not ready|think about it|leave it be|leave it alone|not for me|never got|didn't get|haven't had|"
    "haven't got|never had|never did|never took|never filled|never picked|never started|cancelled|canceled|"
    "changed my mind|talked _ out|not necessary|isn't necessary|not getting|don't believe|insurance said no|not today|"
    "don't do|wait on|put off|scared of|no way|not having|hate needles|not doing|let's not|wouldn't take|"
    "don't take|doesn't take|didn't take|not taking|haven't started|didn't start|not start|don't think so",
}
REVERSED: Mapping[str, Deed] = {
    "stop": "keep", "start": "declined", "keep": "stop", "use": "declined", "up": "same", "down": "same",
    "done": "declined", "plan": "declined",
}  # fmt: skip
AGREE: Mapping[str, frozenset[str]] = {  # what is said that a note may write down so
    "stop": frozenset({"stop", "declined"}),
    "keep": frozenset({"keep", "use", "same", "up", "down", "start"}),
    "use": frozenset({"keep", "use", "same", "up", "down", "start", "plan", "done"}),
    "start": frozenset({"start", "plan", "keep", "use", "up"}),
    "up": frozenset({"up"}),
    "down": frozenset({"down"}),
    "same": frozenset({"same", "keep", "use"}),
    "done": frozenset({"done", "use", "keep", "start", "stop"}),
    "plan": frozenset({"plan", "start", "keep", "use", "done", "up", "down"}),
    "declined": frozenset({"declined", "stop"}),
}
OPPOSE: Mapping[str, frozenset[str]] = {  # what it may not
    "stop": frozenset({"keep", "use", "start", "up", "down", "same"}),
    "keep": frozenset({"stop", "declined"}),
    "use": frozenset({"stop", "declined"}),
    "start": frozenset({"stop", "declined"}),
    "up": frozenset({"down", "same", "keep", "stop"}),
    "down": frozenset({"up", "same", "keep", "stop"}),
    "same": frozenset({"up", "down", "stop"}),
    "done": frozenset({"plan", "declined", "keep"}),
    "plan": frozenset({"declined"}),
    "declined": frozenset({"start", "plan", "done", "keep"}),
}
NEGATED = 3  # words between a denial and what it denies
GAP, GAP_WORDS = "_", 3
MARKS = frozenset(".,;:?!()\n")


def deeds_in(texts: Sequence[str], *, spoken: bool) -> list[tuple[int, Deed]]:
    """The deeds that the words name, each with its first word, reversed where they deny it: "don't stop" keeps."""
    phrases = _phrases(spoken=spoken)
    found: list[tuple[int, Deed]] = []
    i = 0
    while i < len(texts):
        best, end = None, i + 1
        for phrase, deed in phrases.get(texts[i], ()):
            last = _matched(texts, i, phrase)
            if last:
                best, end = deed, last
                break
        if best is not None:
            denied = best not in ("declined", "same") and _is_denied(texts, i)
            found.append((i, REVERSED.get(best, best) if denied else best))
        i = end
    return found


def _is_denied(texts: Sequence[str], i: int) -> bool:
    """Whether a denial stands before word i, with no mark between."""
    before = texts[max(i - NEGATED, 0) : i]
    last = max((k for k, text in enumerate(before) if text in MARKS), default=-1)
    return bool(NEGATIONS.intersection(before[last + 1 :]))


def _matched(texts: Sequence[str], i: int, phrase: Sequence[str]) -> int:
    """The word after the phrase that begins at word i; 0 if it does not."""
    for word in phrase:
        if word != GAP:
            if i >= len(texts) or texts[i] != word:
                return 0
            i += 1
            continue
        wanted = phrase[phrase.index(GAP) + 1]
        ahead = texts[i : i + GAP_WORDS + 1]
        if wanted not in ahead or MARKS.intersection(ahead[: ahead.index(wanted)]):
            return 0
        i += ahead.index(wanted)
    return i


@lru_cache(maxsize=2)
def _phrases(*, spoken: bool) -> dict[str, list[tuple[tuple[str, ...], Deed]]]:
    """The phrases by their first word, long ones first."""
    found: dict[str, list[tuple[tuple[str, ...], Deed]]] = {}
    for deed, phrases in (IN_TALK if spoken else IN_NOTE).items():
        for phrase in phrases.split("|"):
            words = tuple(phrase.split())
            found.setdefault(words[0], []).append((words, deed))
    for listed in found.values():
        listed.sort(key=lambda pair: -len(pair[0]))
    return found
