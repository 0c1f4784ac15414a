"""The work before a release: gate, convert, export, verify, sign and sweep."""
