"""Scheduled audits: every model of an inventory, the ledger of what was found, and what changed since."""
