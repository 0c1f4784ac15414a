"""Screening: find suspicious pairs in a training set, so that a person can judge them before the set is used."""
