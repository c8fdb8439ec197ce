"""The command line: one file for each command, with a click object named `cmd`. Nothing imports this package.

Modules here must stay cheap to import: numpy, pyarrow, pydantic and rich are loaded inside the command that
needs them, so that `kit --help` answers at once.
"""
