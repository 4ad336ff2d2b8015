"""Says what on this machine would keep an evaluation from running, and the command that mends it.

Looks only: downloads, installs and deletes nothing.
"""
