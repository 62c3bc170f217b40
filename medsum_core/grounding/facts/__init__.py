"""Checkable facts of clinical text, read from notes and dialogues by the same rules. No model, no network."""
