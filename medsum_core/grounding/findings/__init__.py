"""Finds findings (symptoms, conditions, drugs, tests, ...) in clinical text and compares a note's with the dialogue's.

The tables in `lexicon/` name the concepts; rules find each mention's assertion status (present, denied, ...) and whose
finding it is. No model, no network.
"""
