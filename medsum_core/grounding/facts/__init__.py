"""Numeric facts of a note (numbers, dates, doses, sides), extracted and looked up by meaning in the dialogue.

Extraction, from text to mentions: `tokens`, `cardinals` and `spoken_numbers` read numbers; `reading` tries the readers
in turn at each token: `dates`, `frequencies` ("b.i.d."), `quantities` (ages, doses, counts), `sides`. `directions`
reads and compares "upper" and "lower". Vocabulary: `words` (units, months), `anatomy` (body parts, relatives, stems).
From the context: `answers` (the question to a bare number), `corrections` ("no wait, the left"), `subjects` (the drug
of a dose). `mention_index` holds the mentions of a dialogue.

Verification: `verdicts` judges a fact. `matching` compares values, `subject_matching` subjects, `date_matching` dates,
`side_matching` sides and body parts; `implied` handles values that the dialogue gives only indirectly.
"""
