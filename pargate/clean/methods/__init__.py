"""Cleaning methods, one per module, with their settings; torch is only needed to compute a loss."""
