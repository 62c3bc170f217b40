"""The lexicon of findings: tables in this package, and a table of the user's.

A row of a table: name, synonyms, broader names, separated by tabs; synonyms and broader names by "|". A synonym

- in capitals ("MI") counts only where the text has capitals,
- after "~" counts only in a dialogue, its words anywhere in a question and its answer ("~blood stool"),
- after "=" counts only in a dialogue ("=drink"),
- after "!" denies the finding that it names ("!nonsmoker"),
- as "pain@chest" is the quality `pain` of the body part `chest`.

The broader name "@part" says that a body part completes the name ("pain"), "@needs" that it says nothing without one
("discharge"), "@lack" that a denial may state it ("I don't eat" is a loss of appetite). A user's table has the kind as
a first field.

lay.tsv has a finding's hints, two fields a row: words that patients use of it, and of other things ("clothes loose");
"@" stands for a word of the finding's body part ("issue @").
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
END = ""  # the key of a phrase's entries in the trie
PARTED, NEEDS_PART, LACK = "@part", "@needs", "@lack"
PARAPHRASE, DENYING, SPOKEN = "~", "!", "="
COMMENT = "#"


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A finding that can be named.

    `paraphrases`: stems of it in a dialogue; `hints`: those that may. `parted`: a body part completes it;
    `needs_part`: must. `lack`: a denial may state it.
    """

    name: str
    kind: str
    broader: tuple[str, ...]
    paraphrases: tuple[frozenset[str], ...]
    hints: tuple[frozenset[str], ...]
    parted: bool
    needs_part: bool
    lack: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Lexicon:
    """Concepts by name, and the trie of their phrases: stems, then under END each name with "in
    capitals", "denying", "spoken only".

    `composed`: the concept that a quality and a part make. `ancestors`: each name with all its broader names.
    """

    concepts: Mapping[str, Concept]
    trie: Mapping[str, Any]
    composed: Mapping[tuple[str, str], str]
    ancestors: Mapping[str, frozenset[str]]

    @cached_property
    def parts_in(self) -> Mapping[str, frozenset[str]]:
        """The body parts that a name holds: "facial droop" is of the face."""
        found: dict[str, set[str]] = {}
        for (_, part), name in self.composed.items():
            found.setdefault(name, set()).add(part)
        return {name: frozenset(parts) for name, parts in found.items()}

    @cached_property
    def longer(self) -> Mapping[str, list[tuple[frozenset[str], str]]]:
        """For each stem the paraphrases of conditions that have it along with others, each with its concept."""
        found: dict[str, list[tuple[frozenset[str], str]]] = {}
        for concept in self.concepts.values():
            for stems in (*concept.paraphrases, *concept.hints) if concept.kind == "condition" else ():
                for word in stems if len(stems) > 1 else ():
                    found.setdefault(word, []).append((stems, concept.name))
        return found

    def related(self, name: str, other: str) -> bool:
        """Whether the names are the same or one is broader than the other."""
        return name == other or name in self.ancestors[other] or other in self.ancestors[name]


class _Row(NamedTuple):
    kind: str
    name: str
    synonyms: tuple[str, ...]
    broader: tuple[str, ...]


def load_lexicon(extra: str | None = None) -> Lexicon:
    """The package's lexicon, with the rows of the file `extra` added to it.

    Raises InputError for a file that cannot be read or has rows that are no rows of a lexicon; no text is shown.
    """
    try:
        return _load(extra, Path(extra).stat().st_mtime_ns if extra else 0)
    except OSError as error:
        raise InputError(f"--lexicon {extra}: cannot be read ({type(error).__name__})") from None


@lru_cache(maxsize=4)
def _load(extra: str | None, changed: int) -> Lexicon:
    """`changed`: when the file was written, so that a file edited since is read again."""
    rows = [_Row(kind, *_fields(line)) for kind in (*KINDS, PART) for line in lines_of(TABLES / f"{kind}.tsv")]
    return _build([*rows, *(_users_rows(extra) if extra else ())], load_hints())


def load_hints() -> dict[str, tuple[frozenset[str], ...]]:
    """The sets of stems that may speak of each finding of lay.tsv."""
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


def _users_rows(path: str) -> Iterator[_Row]:
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
        before = merged.get(row.name, _Row(row.kind, row.name, (), ()))
        merged[row.name] = _Row(
            before.kind, row.name, (*before.synonyms, *row.synonyms), (*before.broader, *row.broader)
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
            _insert(trie, stems, (row.name, text.isupper(), text.startswith(DENYING), text.startswith(SPOKEN)))
            weak = len(stems) > 1 or NEEDS_PART in row.broader or row.kind == PART
            paraphrases += [frozenset(stems)] if weak and text[0] != DENYING else []
        concepts[row.name] = Concept(
            name=row.name,
            kind=row.kind,
            broader=tuple(
                name for name in (*row.broader, *(quality for quality, _, _ in pairs)) if not name.startswith("@")
            ),
            paraphrases=tuple(dict.fromkeys(paraphrases)),
            hints=hints.get(row.name, ()),
            parted=PARTED in row.broader,
            needs_part=NEEDS_PART in row.broader,
            lack=LACK in row.broader,
        )
    ancestors = {name: _ancestors(concepts, name) for name in concepts}
    return Lexicon(concepts=concepts, trie=trie, composed=composed, ancestors=ancestors)


def _insert(trie: dict[str, Any], stems: Sequence[str], entry: tuple[str, bool, bool, bool]) -> None:
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
