"""Parts of a readable fine-tuning loop: a doctor-patient dialogue becomes a section of a clinical note."""

from medsum_core.quiet_libraries import hide_missing_kernels_line

__version__ = "0.1.0"

# Here because peft imports bitsandbytes, and no part of this package can be imported before this line has run.
hide_missing_kernels_line()
