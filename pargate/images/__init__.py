"""Images, class names and their sources."""
