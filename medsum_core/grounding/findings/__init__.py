"""Findings of clinical text with what is said of them, named by the tables in `lexicon/`. No model, no network."""
