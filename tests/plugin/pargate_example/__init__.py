"""One part of each kind for pargate."""
