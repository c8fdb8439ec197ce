"""What can be measured here: `kit doctor`, its probe of the instruments, the parts of the GPU check.

Checks look and explain, the probe measures the card's own sensors, the bench audits a known workload.
Nothing here changes a setting of the machine; a fix is a command for a person to run.
"""
