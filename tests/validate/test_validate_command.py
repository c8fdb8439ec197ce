"""kit validate."""

from __future__ import annotations

import json

import pytest

from tests.validate.runs import row
from tests.validate.tamper import edit_rows


def test_command(bundle):
    from click.testing import CliRunner

    from harness.cli.validate import cmd

    good = CliRunner().invoke(cmd, [str(bundle)])
    assert good.exit_code == 0
    assert "holds" in good.output
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_j=1.0))
    bad = CliRunner().invoke(cmd, [str(bundle)])
    assert bad.exit_code == 1
    assert "E203 derived-differs" in bad.output
    assert "at stake: 48.40 kJ" in bad.output
    assert "Fix:" in bad.output
    machine = CliRunner().invoke(cmd, [str(bundle), "--format", "json"])
    data = json.loads(machine.output)
    assert data["valid"] is False
    assert data["findings"][0]["joules_at_stake_j"] == pytest.approx(48_399, abs=1)
    assert CliRunner().invoke(cmd, [str(bundle / "no")]).exit_code == 2
    assert CliRunner().invoke(cmd, [str(bundle), "--level", "1"]).exit_code == 0
