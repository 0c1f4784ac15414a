"""The GitHub Action after its installation by `action.yml` (`python -P -m pargate.github`), and `init github`."""
