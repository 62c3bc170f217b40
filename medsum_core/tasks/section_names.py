"""The sections of a note: MTS-Dialog's twenty codes with their full names."""

from __future__ import annotations

SECTION_NAMES: dict[str, str] = {
    "ALLERGY": "Allergies",
    "ASSESSMENT": "Assessment",
    "CC": "Chief complaint",
    "DIAGNOSIS": "Diagnosis",
    "DISPOSITION": "Disposition",
    "EDCOURSE": "Emergency department course",
    "EXAM": "Physical examination",
    "FAM/SOCHX": "Family and social history",
    "GENHX": "History of present illness",
    "GYNHX": "Gynecologic history",
    "IMAGING": "Imaging",
    "IMMUNIZATIONS": "Immunizations",
    "LABS": "Laboratory results",
    "MEDICATIONS": "Medications",
    "OTHER_HISTORY": "Other history",
    "PASTMEDICALHX": "Past medical history",
    "PASTSURGICAL": "Past surgical history",
    "PLAN": "Plan",
    "PROCEDURES": "Procedures",
    "ROS": "Review of systems",
}


def section_name(header: str) -> str:
    """The full name of a section: from an MTS-Dialog code or a full name in any case; another header verbatim."""
    header = header.strip()
    if header.upper() in SECTION_NAMES:
        return SECTION_NAMES[header.upper()]
    return next((name for name in SECTION_NAMES.values() if name.casefold() == header.casefold()), header)


def section_code(name: str) -> str:
    """The MTS-Dialog code of a section's full name; another name verbatim."""
    return next((code for code, full in SECTION_NAMES.items() if full.casefold() == name.strip().casefold()), name)
