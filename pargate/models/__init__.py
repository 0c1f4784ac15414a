"""Models: `open.open_model` reads a source once and returns all that the rooms above need."""
