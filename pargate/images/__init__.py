"""Carrier images, class names and where they come from."""
