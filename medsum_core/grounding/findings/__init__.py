"""Reads the findings of clinical text (symptoms, conditions, drugs, tests) and checks a note's against the dialogue.

The tables in `lexicon/` name the concepts. No model, no network. Where a rule is, by what it decides:

- mentions: `stems` (word forms), `lexicon` (the tables), `matching` (longest phrase, body parts);
- assertion and subject in a sentence: `scope` (denied, uncertain, past, planned), `kinship` and `relatives` (whose);
- questions and answers: `replies` (polarity of an answer), `answering` (which finding it is about, and whose);
- a whole text: `reading` gives a `finding.FindingScan`, `finding_index` the evidence for each finding in a dialogue;
- a note's finding: `verdicts`, with `persons` (same subject?), `qualities` (same certainty, course, result?), `changes`
  and `actions` (started, stopped, done?), `allergies`, `wording` (paraphrases);
- a note's other statements: `places` (body parts), `identity` (sex, work, marital status), relatives in `persons`.
"""
