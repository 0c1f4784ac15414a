"""Kinds of image sources, one per module."""
