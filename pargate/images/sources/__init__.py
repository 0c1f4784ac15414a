"""Kinds of sources of images, each in a module of its own."""
