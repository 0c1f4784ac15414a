"""Experiments: encoder and carriers in, counts out. A probe knows no limit and never judges."""
