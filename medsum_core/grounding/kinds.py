"""What the grounding check covers and what it does not, in words, to be shown with every rate."""

from __future__ import annotations

CHECKED_KINDS = (
    "numbers, ages, dates, durations, doses, measurements, frequencies, pressures and sides; medications, allergies, "
    "symptoms, conditions, procedures, substances and relatives, present or denied; the "
    "patient's sex, work and marital status"
)
UNCHECKED = (
    "findings that the lexicon does not name, severity, reasons and order, advice in plain words, who said "
    "it, whatever is not English"
)
