"""Parts of a readable fine-tuning loop: a doctor-patient dialogue becomes a section of a clinical note."""

from medsum_core.quiet_libraries import hide_missing_kernels_line, refuse_hub_kernels

__version__ = "0.1.0"

# Here because peft imports bitsandbytes, and no part of this package can be imported before these lines have run.
refuse_hub_kernels()
hide_missing_kernels_line()
