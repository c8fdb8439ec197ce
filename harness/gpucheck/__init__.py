"""What only a card can show: its sensors (`probe`), known work under the meter, the stages' own code.

`scripts/gpu_check.py` (`check`) and `kit doctor --probe` start it. Nothing here changes a setting of the
machine.
"""
