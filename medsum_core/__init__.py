"""Parts of a readable fine-tuning loop: a doctor-patient dialogue becomes a section of a clinical note."""

__version__ = "0.1.0"
