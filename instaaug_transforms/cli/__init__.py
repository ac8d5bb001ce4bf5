"""The ``instaaug`` command."""
