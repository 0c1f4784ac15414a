"""Models: `open.open_model` opens a source once, and what it returns is all that the rooms above need."""
