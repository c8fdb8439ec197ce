"""What only a card can show: its sensors (`probe`), a known workload (`bench`), the stages' code (`models`).

`scripts/gpu_check.py` and `kit doctor --probe` start it. Nothing here changes a setting of the machine.
"""
