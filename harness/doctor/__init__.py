"""What can be measured here: `kit doctor`.

Checks look and explain. Nothing here changes a setting of the machine; a fix is a command for a person
to run.
"""
