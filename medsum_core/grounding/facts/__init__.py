"""Checkable facts of clinical text: read from notes and dialogues alike, compared in one unit. No model, no network."""
