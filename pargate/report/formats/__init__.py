"""Report formats: each module renders a report as text."""
