"""Images of everyday things, drawn from a seed, with captions."""
