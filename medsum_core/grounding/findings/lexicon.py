"""The lexicon of findings: the tables of this package, and optionally a table of the user.

A row of a table is a concept: name, synonyms, broader concepts, separated by tabs. Synonyms and broader concepts are
lists separated by "|". Some synonyms are special:

- in capitals ("MI"): is found only where the text has capitals too,
- "~blood stool": a paraphrase, found only in a dialogue; its words may stand anywhere in a turn and the next one,
- "=drink": is found only in a dialogue,
- "!nonsmoker": denies the concept,
- "pain@chest": the concept is the quality `pain` of the body part `chest`.

Three tags may stand among the broader concepts. "@part": a quality that takes a body part ("pain"). "@needs": it is no
finding without one ("discharge"). "@lack": it is the absence of something, so that a sentence with a negation may
affirm it ("I don't eat": loss of appetite). In the user's table the kind comes first, as a field of its own.

A row of lay.tsv is a concept and its hints, which are weaker than paraphrases: words that patients use for it, but for
other things too ("clothes loose" for weight loss). In a hint "@" stands for the finding's body part ("issue @").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from medsum_core.errors import InputError
from medsum_core.grounding.findings.stems import stem

KINDS = ("medication", "allergen", "symptom", "condition", "procedure", "substance")
PART = "part"
TABLES = Path(__file__).parent / "lexicon"
HINTS = "lay.tsv"
END = ""  # the key of a node's entries in the trie
TAKES_PART, NEEDS_PART, LACK = "@part", "@needs", "@lack"
PARAPHRASE, DENYING, SPOKEN = "~", "!", "="
COMMENT = "#"


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A concept of the lexicon: a row of a table.

    `paraphrases` and `hints`: sets of stems; a dialogue that has all stems of a set near each other may mean the
    concept. `takes_part`, `needs_part`, `lack`: the tags "@part", "@needs", "@lack".
    """

    name: str
    kind: str
    broader: tuple[str, ...]
    paraphrases: tuple[frozenset[str], ...]
    hints: tuple[frozenset[str], ...]
    takes_part: bool
    needs_part: bool
    lack: bool


class Entry(NamedTuple):
    """What a phrase of the trie means: the concept `name`, or its denial.

    `capitals`: only in capitals; `spoken`: only in a dialogue.
    """

    name: str
    capitals: bool
    denies: bool
    spoken: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Lexicon:
    """The concepts by name, and the trie of their names and synonyms: a path of stems, with entries under END.

    `composed`: the concept that a quality and a body part make together. `ancestors`: of each concept, itself and all
    broader ones.
    """

    concepts: Mapping[str, Concept]
    trie: Mapping[str, Any]
    composed: Mapping[tuple[str, str], str]
    ancestors: Mapping[str, frozenset[str]]

    @cached_property
    def parts_in(self) -> Mapping[str, frozenset[str]]:
        """The body parts that a concept implies: "facial droop" implies the face."""
        found: dict[str, set[str]] = {}
        for (_, part), name in self.composed.items():
            found.setdefault(name, set()).add(part)
        return {name: frozenset(parts) for name, parts in found.items()}

    @cached_property
    def longer_phrases(self) -> Mapping[str, list[tuple[frozenset[str], str]]]:
        """For each stem the conditions' paraphrases and hints of several stems that contain it, with their concept."""
        found: dict[str, list[tuple[frozenset[str], str]]] = {}
        for concept in self.concepts.values():
            for stems in (*concept.paraphrases, *concept.hints) if concept.kind == "condition" else ():
                for word in stems if len(stems) > 1 else ():
                    found.setdefault(word, []).append((stems, concept.name))
        return found

    def related(self, name: str, other: str) -> bool:
        """Whether two concepts are the same or one is broader than the other."""
        return name == other or name in self.ancestors[other] or other in self.ancestors[name]


class _Row(NamedTuple):
    kind: str
    name: str
    synonyms: tuple[str, ...]
    broader: tuple[str, ...]


def load_lexicon(extra: str | None = None) -> Lexicon:
    """The package's lexicon, with the rows of the user's table `extra` added.

    Raises InputError if the file cannot be read or a row is malformed; the message holds no text of the file.
    """
    try:
        return _load(extra, Path(extra).stat().st_mtime_ns if extra else 0)
    except OSError as error:
        raise InputError(f"--lexicon {extra}: cannot be read ({type(error).__name__})") from None


@lru_cache(maxsize=4)
def _load(extra: str | None, modified: int) -> Lexicon:
    """`modified`: when the file was written; part of the cache key, so that an edited file is read again."""
    rows = [_Row(kind, *_fields(line)) for kind in (*KINDS, PART) for line in lines_of(TABLES / f"{kind}.tsv")]
    return _build([*rows, *(_user_rows(extra) if extra else ())], load_hints())


def load_hints() -> dict[str, tuple[frozenset[str], ...]]:
    """The hints of each concept of lay.tsv, as sets of stems."""
    found: dict[str, tuple[frozenset[str], ...]] = {}
    for line in lines_of(TABLES / HINTS):
        name, phrases = line.split("\t")
        stems = {frozenset(map(stem, phrase.replace("-", " ").split())): None for phrase in phrases.split("|")}
        found[name] = (*found.get(name, ()), *stems)
    return found


def lines_of(table: Path) -> list[str]:
    """The rows of a table, without comments."""
    lines = table.read_text("utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith(COMMENT)]


def _fields(line: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    name, synonyms, broader = line.split("\t")
    return name, tuple(filter(None, synonyms.split("|"))), tuple(filter(None, broader.split("|")))


def _user_rows(path: str) -> Iterator[_Row]:
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--lexicon {path}: cannot be read ({type(error).__name__})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(COMMENT):
            continue
        kind, *fields = (part.strip() for part in line.split("\t"))
        if kind not in (*KINDS, PART) or not fields or not fields[0] or len(fields) > 3:
            raise InputError(
                f"--lexicon {path}, line {number}: not kind, name, synonyms, broader names separated by tabs; kinds: "
                f"{', '.join((*KINDS, PART))}"
            )
        yield _Row(kind, *_fields("\t".join([*fields, "", ""][:3])))


def _build(rows: Sequence[_Row], hints: Mapping[str, tuple[frozenset[str], ...]]) -> Lexicon:
    merged: dict[str, _Row] = {}
    for row in rows:
        so_far = merged.get(row.name, _Row(row.kind, row.name, (), ()))
        merged[row.name] = _Row(
            so_far.kind, row.name, (*so_far.synonyms, *row.synonyms), (*so_far.broader, *row.broader)
        )
    concepts, composed = {}, {}
    trie: dict[str, Any] = {}
    for row in merged.values():
        paraphrases = [frozenset(map(stem, text[1:].split())) for text in row.synonyms if text.startswith(PARAPHRASE)]
        pairs = [text.partition("@") for text in row.synonyms if "@" in text]
        composed.update({(quality, part): row.name for quality, _, part in pairs})
        for text in (row.name, *row.synonyms):
            if text.startswith(PARAPHRASE) or "@" in text:
                continue
            stems = [stem(word.lower()) for word in text.lstrip(DENYING + SPOKEN).split()]
            _insert(trie, stems, Entry(row.name, text.isupper(), text.startswith(DENYING), text.startswith(SPOKEN)))
            may_be_split = len(stems) > 1 or NEEDS_PART in row.broader or row.kind == PART
            paraphrases += [frozenset(stems)] if may_be_split and text[0] != DENYING else []
        concepts[row.name] = Concept(
            name=row.name,
            kind=row.kind,
            broader=tuple(
                name for name in (*row.broader, *(quality for quality, _, _ in pairs)) if not name.startswith("@")
            ),
            paraphrases=tuple(dict.fromkeys(paraphrases)),
            hints=hints.get(row.name, ()),
            takes_part=TAKES_PART in row.broader,
            needs_part=NEEDS_PART in row.broader,
            lack=LACK in row.broader,
        )
    ancestors = {name: _ancestors(concepts, name) for name in concepts}
    return Lexicon(concepts=concepts, trie=trie, composed=composed, ancestors=ancestors)


def _insert(trie: dict[str, Any], stems: Sequence[str], entry: Entry) -> None:
    for word in stems:
        trie = trie.setdefault(word, {})
    if entry not in trie.setdefault(END, []):
        trie[END].append(entry)


def _ancestors(concepts: Mapping[str, Concept], name: str) -> frozenset[str]:
    found: set[str] = set()
    todo = [name]
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            todo += concepts[current].broader if current in concepts else ()
    return frozenset(found)
