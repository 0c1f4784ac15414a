"""The training of a cleaning run. The only part of `clean` that imports torch."""
