"""Scans: a model, a policy and images in, a report out."""
