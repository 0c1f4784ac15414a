"""What the machine offers and which features work on it."""
