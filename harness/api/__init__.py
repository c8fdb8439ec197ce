"""`Meter`: stages measured inside a Python program, with or without the command line.

    from harness import Meter
    with Meter(out="runs/mine") as meter:
        with meter.stage("student_train") as stage:
            stage.add_tokens(trained=512, processed=1024, positions=1024)
        print(stage.energy.total)

Under `kit audit` the program is itself a stage that is being measured: then nothing is metered a second time,
and its stages, tokens and events go to the file named in KIT_EVENTS. Its stages are children of the one that
is measured, at the moments stamped here.

Started once a GPU (torchrun, accelerate), the program is metered by its local rank 0; the others report to it
(`harness.meter.ranks`).

`meter` holds the meter, `stage` what a stage is told and what it used, `sinks` where its reports go.
"""

from __future__ import annotations

from harness.api.meter import Meter
from harness.api.stage import Stage, StageEnergy
from harness.api.waiting import synchronize_devices

__all__ = ["Meter", "Stage", "StageEnergy", "synchronize_devices"]
