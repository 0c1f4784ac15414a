"""The policy language: YAML text to data with positions, and data to rules."""
