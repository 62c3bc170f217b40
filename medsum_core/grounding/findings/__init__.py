"""Findings of clinical text with what is said of them, named by the tables in `lexicon/`. No model, no network.

Where a rule is, by what it decides:

- what is named: `stems` (words alike), `lexicon` (the tables), `matching` (longest phrase, body parts);
- what a sentence says of it: `scope` (denied, doubted, past, planned), `kinship` and `relatives` (whose it is);
- what a question and its answer say: `replies` (yes, no, told), `answering` (of which finding, of whom);
- all of a text: `reading` gives a `finding.FindingScan`, `finding_index` what a dialogue says of each finding;
- a note's finding: `verdicts`, with `persons` (of the same person?), `qualities` (as certain, of the same course and
  result?), `changes` and `actions` (started, stopped, done?), `allergies`, `wording` (said in other words?);
- a note's other statements: `places` (body parts), `identity` (sex, work, marital status), relatives in `persons`.
"""
