"""Policies: text to data with positions, data to rules, rules and measurements to a verdict."""
