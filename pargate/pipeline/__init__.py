"""Use cases: what the commands do, in order, with all effects."""
