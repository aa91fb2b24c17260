"""What type checkers have to accept and to refuse: read by mypy and pyright, never run.

A line that has to be refused says so by an ignore comment; one that is not needed is an error.
"""
