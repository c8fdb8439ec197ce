"""The lab: a fake NVML and a fake powercap tree that play known power, and the exact joules they played.

`config` and `waveforms` say what is played and what is true; `build` compiles the C library that the real
pynvml loads; `powercap` is the RAPL side. Nothing here imports the kit.
"""

from .build import build_fake_nvml, clock_step_env, read_calls
from .config import (
    Fault,
    LabConfig,
    LabDevice,
    Mig,
    Refresh,
    counter_jump,
    counter_reset,
    counter_shows,
    counter_stuck,
    error_burst,
    fails,
    gpu_lost,
    mono_us,
    not_supported,
    override,
    power_shows,
    process,
    stall,
    tick_times,
    true_energy_j,
    true_power_w,
    zero_power,
)
from .powercap import FakePowercap, Zone, obey_file_modes
from .waveforms import Const, Noise, Ramp, Sine, Square, Steps, Trace, random_waveform

__all__ = [
    "Const",
    "FakePowercap",
    "Fault",
    "LabConfig",
    "LabDevice",
    "Mig",
    "Noise",
    "Ramp",
    "Refresh",
    "Sine",
    "Square",
    "Steps",
    "Trace",
    "Zone",
    "build_fake_nvml",
    "clock_step_env",
    "counter_jump",
    "counter_reset",
    "counter_shows",
    "counter_stuck",
    "error_burst",
    "fails",
    "gpu_lost",
    "mono_us",
    "not_supported",
    "obey_file_modes",
    "override",
    "power_shows",
    "process",
    "random_waveform",
    "read_calls",
    "stall",
    "tick_times",
    "true_energy_j",
    "true_power_w",
    "zero_power",
]
