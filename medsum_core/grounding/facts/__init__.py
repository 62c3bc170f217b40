"""Numbers, dates, doses and sides: read alike in a note and its dialogue, then looked up by meaning.

Text to mentions: `tokens`, `cardinals` and `spoken_numbers` read numbers; `reading` asks one reader after the other for
what begins at a token: `dates`, `rates` ("b.i.d."), `quantities` (ages, doses, counts), `sides`. Vocabulary: `words`
(units, months), `anatomy` (body parts, relatives, stems). What the conversation adds: `answers` (the question to a bare
number), `corrections` ("no wait, the left"), `subjects` (the drug of a dose). `index` is a dialogue with all of it.

Looking up: `verdicts` judges a fact. `matching` compares values, `roles` whose they are, `date_matching` dates,
`side_claims` and `directions` sides and ends of body parts; `implied` knows what is said without its number.
"""
