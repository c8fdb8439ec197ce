"""What a run would meet, before it starts: `kit preflight` finds problems, `kit plan` says what it will take.

    stages.py    the stages of a profile or pipeline file with their settings and models
    checks.py    the checks, one small function each
    memory.py    what each stage takes of a card, of disks
    plan.py      time and energy of every stage, and a plan beside what was measured
    reuse.py     caches and synthetic sets on the disk that fit a recipe
    findings.py  findings and their table

Nothing here loads weights or runs a model, and nothing of an asset needs to be on the disk.
"""
