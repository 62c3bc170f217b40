"""What the checks of notes see and what stays invisible to them, in words, for everything that shows a rate."""

from __future__ import annotations

CHECKED_KINDS = (
    "numbers, ages, dates, durations, doses, measurements, frequencies, pressures and sides; medications, allergies, "
    "symptoms, conditions, procedures, substances and relatives, present or denied; the "
    "patient's sex, work and marital status"
)
INVISIBLE = (
    "findings that the lexicon does not name, severity, reasons and order, advice in plain words, who said "
    "it, whatever is not English"
)
