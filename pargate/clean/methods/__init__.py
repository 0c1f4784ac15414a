"""Cleaning methods: each module holds one, with its settings. Without torch until a loss is computed."""
