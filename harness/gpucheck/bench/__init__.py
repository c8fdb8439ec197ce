"""The GPU check: known work on a real card, audited by the meter; a bar for every finding.

`sections` is the list of what is done; a section is a function and a line in its registry. Only a real
GPU gives these findings a meaning; a rehearsal (`scripts/gpu_check.py --cpu-rehearsal`) shows that the
programs work.
"""
