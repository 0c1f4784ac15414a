"""Verdicts: measurements against a policy's limits, waivers, and saved reports judged again. No models, no images."""
