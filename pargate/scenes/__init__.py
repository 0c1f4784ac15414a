"""Images of everyday things, drawn from a seed, and their captions."""
