"""The command line: one file for each command, with a click object named `cmd`. Nothing imports this package.

Modules here must stay cheap to import: numpy, pyarrow, pydantic and rich are loaded inside the command that
needs them, so that `kit --help` answers at once.
"""

import gc

gc.set_threshold(100_000)  # what a short command loads is no garbage, and looking through it takes long
