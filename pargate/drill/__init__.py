"""A fire drill: plant known backdoors into copies of a model, and count which of them a policy finds."""
