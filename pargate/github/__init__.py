"""What the GitHub Action does once it is installed: `python -P -m pargate.github`.

`action.yml` installs; everything that needs thought is here, where it has tests and no shell.
"""
