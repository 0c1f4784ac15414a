"""open_clip models as encoders. Importing this package loads torch."""
