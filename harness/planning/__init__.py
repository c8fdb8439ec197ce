"""What a stage must cost before it runs: FLOPs, bytes, memory, cards.

Sums from a model's shape and a stage's sizes alone, shared by the GPU check and by plans. No torch, no
device.
"""
