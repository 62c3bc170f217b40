"""Print the note of one dialogue token by token; then its unsupported, contradicted and omitted facts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from medsum_core.data.disclosure import escape
from medsum_core.data.records import Record, join_records
from medsum_core.data.turns import read_turns
from medsum_core.generation.generate import generate
from medsum_core.generation.streamed_text import StreamedText
from medsum_core.generation.writer import Writer, fit
from medsum_core.grounding.check import Fact, check_record, count_checked, merge_unsupported
from medsum_core.grounding.evidence import evidence
from medsum_core.grounding.kinds import CHECKED_KINDS
from medsum_core.grounding.omissions import has_statements, omissions_of_record
from medsum_core.tasks.task import Task

RED, PLAIN = "\x1b[31m", "\x1b[0m"


def show_note(writer: Writer, records: Sequence[Record], *, with_evidence: bool) -> None:
    """Generate and print the note of one record, or of the four divisions of a visit, and the result of its check."""
    shown = StreamedText(writer.renderer.decode)

    def show(_: int, token: int) -> None:
        print(_printable(shown.add(token)), end="", flush=True)

    prompts = list(fit({record.id: record for record in records}, writer, needs_all=True).prompts.values())
    as_they_come = len(records) == 1 and writer.decoding["num_beams"] == 1 and writer.forward["search"] is None
    as_they_come = as_they_come and "grounded" not in writer.description  # it may take back what it wrote
    generations = generate(
        writer.load_model(prompts),
        prompts,
        on_token=show if as_they_come else None,
        **writer.options(records),
    )
    task, texts = writer.renderer.task, [writer.renderer.decode(list(one.token_ids)) for one in generations]
    record, note = records[0], texts[0]
    if task.divide:
        (record,), (note,) = join_records(records, texts)
    print(_printable(shown.rest(note)))
    if any(generation.hit_limit for generation in generations):
        print(f"(cut at the limit of {writer.budget.max_new_tokens} tokens)", file=sys.stderr)
    if left_out := sum(generation.left_out for generation in generations):
        print(f"(left out {left_out} times what the source text does not support)", file=sys.stderr)
    for line in _checked(note, record, task):
        print(line)
    for support in evidence(note, record.source_text) if with_evidence else ():
        turns = ", ".join(str(turn + 1) for turn in support.turns) or "none"
        flag = "  <- little support" if support.low_support else ""
        print(f"sentence at {support.start}-{support.end}: turns {turns} (score {support.score:.2f}){flag}")


def _printable(text: str) -> str:
    """The text; on a terminal control characters are escaped, which it would obey."""
    return "\n".join(map(escape, text.split("\n"))) if sys.stdout.isatty() else text


def _contradictions(note: str, facts: Sequence[Fact], dialogue: str) -> list[str]:
    """Each contradicted fact with the turn that contradicts it, and the next turn if that one is a question."""
    turns = read_turns(dialogue)
    lines = []
    for fact in facts:
        if fact.verdict == "contradicted" and fact.turn is not None:
            said = turns[fact.turn : fact.turn + (2 if turns[fact.turn].text.endswith("?") else 1)]
            words = " / ".join(f"{turn.speaker or 'Speaker'}: {turn.text}" for turn in said)
            lines.append(_printable(f"{note[fact.start : fact.end]}: contradicted by turn {fact.turn + 1}: {words}"))
    return lines


def _checked(note: str, record: Record, task: Task) -> Iterator[str]:
    """Unsupported, contradicted and omitted facts, and how many facts were checked."""
    if task.facts_from is None:
        return
    facts, omissions = check_record(note, record, task), omissions_of_record(note, record, task)
    if spans := merge_unsupported(facts):
        yield f"\nNot said in the dialogue ({len(spans)}):\n{_marked(note, spans)}"
    yield from _contradictions(note, facts, record.source_text)
    if omissions.omitted:
        dialogue = record.source_text
        places = [f'turn {one.turn + 1} "{escape(dialogue[one.start : one.end])}"' for one in omissions.omitted]
        yield f"\nSaid in the dialogue and not in the note ({len(places)}): {', '.join(places)}"
    stated = f" of the note, {omissions.stated} of the dialogue" if has_statements(task) else ""
    yield f"\nchecked {count_checked(facts)} facts{stated}: {CHECKED_KINDS}"


def _marked(note: str, spans: Sequence[tuple[int, int]]) -> str:
    """The note with its unsupported facts in red on a terminal, in brackets elsewhere."""
    before, after = (RED, PLAIN) if sys.stdout.isatty() else ("[[", "]]")
    pieces, end = [], 0
    for start, stop in spans:
        pieces += [_printable(note[end:start]), before, _printable(note[start:stop]), after]
        end = stop
    return "".join([*pieces, _printable(note[end:])])
