"""Probes, which turn an encoder and images into counts. Limits and verdicts belong to `judge`."""
