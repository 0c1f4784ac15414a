"""The training of a cleaning run, which needs torch."""
