"""What a vector is made of, which mistakes it catches, and how a family is written down."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

PROTOCOL = "1.0"

FLAGS: dict[str, tuple[str, str]] = {
    "LeftRiemann": (
        "each sample is held until the next one instead of joined to it",
        "off by half a step of power times a period at every change of load",
    ),
    "WallClock": (
        "durations are taken from UTC instead of the monotonic clock",
        "a step of NTP or of an administrator becomes energy that nobody used, or takes some away",
    ),
    "LocalTime": (
        "times are read in a zone with summer time",
        "a run over the night of the change gains or loses an hour of power",
    ),
    "NullAsZero": (
        "a failed read counts as a reading of zero",
        "every failed read takes about one period of power away, or looks like a wrap of the counter",
    ),
    "ZeroIsPower": (
        "a reading of 0 mW counts as power",
        "drivers answer 0 when asked too fast; each such answer takes a period of power away",
    ),
    "EdgesCut": (
        "only samples inside the window are integrated",
        "up to a period of power is lost at each end of every stage",
    ),
    "EdgesHeld": (
        "the first and last sample inside the window are held to its ends, neighbours outside are ignored",
        "wrong wherever load changes at a stage's end, which is where it changes",
    ),
    "GapsHidden": (
        "gaps are bridged without a word",
        "a figure that is mostly guessed looks like a measured one",
    ),
    "GapsDropped": (
        "time in gaps counts as no energy",
        "a meter that was stopped for an hour reports a cheap run",
    ),
    "SinglePrecision": (
        "times or counters are kept in 32-bit floating point",
        "after an hour of microseconds the clock moves in steps of a quarter of a second",
    ),
    "ResetIgnored": (
        "the counter at the end minus the counter at the start, whatever happened between",
        "a reset of the driver makes a negative or far too small energy",
    ),
    "StandstillIgnored": (
        "a counter that stopped counting is believed",
        "the energy of the rest of the stage is missing",
    ),
    "IntegralBilled": (
        "the power integral is billed although the counter was read",
        "a load that repeats with the samples is off by up to half its swing, for as long as it runs",
    ),
    "NoUnwrap": (
        "a fall of a RAPL counter is not undone",
        "each wrap takes the whole range away, 65 to 262 kJ",
    ),
    "FallIsWrap": (
        "every fall of a RAPL counter is taken for a wrap",
        "a counter that was reset adds its whole range, up to 262 kJ",
    ),
    "SumBeforeUnwrap": (
        "counters of several packages are added and the sum is unwrapped",
        "a wrap of one package is undone by the wrong range",
    ),
    "EveryZone": ("core, uncore and psys are added to package", "CPU energy counts two or three times"),
    "MirrorCounted": (
        "a package that shows another one's counter is added to it",
        "CPU energy counts twice on multi-die machines",
    ),
    "ParentSummed": ("a stage and the stages inside it are both added", "nested energy counts twice"),
    "HolesLost": (
        "time between stages belongs to nobody and is left out",
        "the parts do not add up to the run; what is not declared costs nothing",
    ),
    "FailedDropped": (
        "attempts that did not complete are left out of the energy",
        "crashes, retries and evictions cost nothing",
    ),
    "FailedTokens": (
        "tokens of attempts that did not complete are counted",
        "the same tokens count twice and J/token falls",
    ),
    "StageTokens": (
        "tokens of every stage are added for the denominator",
        "a teacher's or an evaluation's tokens dilute the student's J/token",
    ),
    "NominalTokens": (
        "the declared reference count is used whatever was asked for",
        "J/token of the named count is another quantity",
    ),
    "FirstSession": (
        "only one session of a resumed run is counted",
        "everything before or after the interruption costs nothing",
    ),
    "Lexicographic": (
        "cumulative records are ordered by the text of their names",
        "step_9800 comes after step_22200, and the joules between are lost",
    ),
    "SnapshotsSummed": ("cumulative records are added", "the same joules count once a record"),
    "StepMissed": ("clock steps are looked for in one direction only", "a clock set back goes unnoticed"),
    "TeacherTwice": (
        "an inherited artifact is charged once for every stage that reads it",
        "the teacher is paid several times",
    ),
    "OwnAmortized": (
        "the whole run is divided by the number of reuses",
        "the student's training is shared too, which every student pays alone",
    ),
    "KwhTruncated": ("a unit's factor is off or taken as 1", "figures are wrong by a power of ten or by 3.6"),
    "PoundAsKilogram": ("lb/MWh is read as kg/MWh", "emissions are too high by 2.2"),
    "UnknownUnitGuessed": ("an unknown unit counts as the wanted one", "a wrong figure without an error"),
    "PueForgotten": (
        "emissions are computed from IT energy although a PUE is given",
        "emissions are too low by the PUE",
    ),
    "PueBelowOne": ("a PUE below 1 is accepted", "a building that uses less than the machines in it"),
    "BinaryRounding": (
        "decimal figures are subtracted in binary and the quotient is rounded up",
        "10 reuses become 11",
    ),
    "RoundedDown": (
        "N* is rounded down or to the nearest whole number",
        "one reuse too few: the teacher is not paid back yet",
    ),
    "NegativeN": (
        "the quotient is reported whatever its sign",
        "a negative number of reuses where distilling never pays",
    ),
    "FreeTeacher": (
        "a teacher without energy is divided like any other",
        "0 / 0, or never where always is right",
    ),
    "UnknownAsZero": ("an unknown energy counts as zero", "what was not measured looks free"),
    "PartialQ": (
        "Q is the mean over whatever benchmarks there are",
        "leaving out the worst benchmark raises Q",
    ),
    "FloorIgnored": (
        "a teacher that knows nothing is divided by all the same",
        "one meaningless ratio dominates Q",
    ),
    "RatioOfMeans": (
        "the mean of the scores over the mean of the teacher's scores",
        "benchmarks with large scores weigh more",
    ),
    "UnparsedAsWrong": (
        "an answer that could not be read counts as a wrong one",
        "a score falls with the parser and not with the model; nothing scored looks like a score of 0",
    ),
    "ItemsIgnored": (
        "a score is taken as stated, whatever its items say",
        "an evaluation that evaluated nothing is reported as completed",
    ),
    "ScaleUnchecked": (
        "a score outside its scale is taken",
        "a percentage among fractions raises Q a hundredfold",
    ),
    "FirstIdleAlone": (
        "idle power is taken from the first idle stage alone",
        "a card that stays warm after the work draws more, and the difference is billed as work",
    ),
    "IdleMeanOfMeans": (
        "mean powers of idle stages are averaged whatever their length",
        "a short wait weighs as much as a long one",
    ),
    "TiesWin": (
        "best values alone decide who dominates",
        "an order is claimed that the intervals do not allow",
    ),
    "CodePointOrder": (
        "object keys are sorted by code points or bytes",
        "digests differ for keys beyond the basic plane",
    ),
    "NumbersAsWritten": (
        "numbers are printed as the language likes",
        "1.0, 1e-07 and 1E21 give digests that nobody else gets",
    ),
    "MinusZero": ("the sign of zero is kept", "two equal tables have two digests"),
    "AsciiEscapes": ("text beyond ASCII is escaped", "digests differ for the same text"),
    "HugeIntegers": (
        "integers beyond 2^53 are written although readers lose their last digits",
        "two readers see two numbers under one digest",
    ),
    "NotANumber": ("NaN or an infinity is written", "text that is no JSON, or a null nobody meant"),
    "NullsLost": (
        "nulls are hashed as the value that stands in for them",
        "a table of zeros and a table of nulls have one digest",
    ),
    "NoLengths": (
        "texts are hashed one after another without their lengths",
        "[ab, c] and [a, bc] have one digest",
    ),
    "BigEndian": (
        "numbers are hashed in the machine's or the network's order",
        "digests differ between machines",
    ),
    "NullsLast": ("nulls sort after values", "a table in order is refused, or one out of order accepted"),
    "TextOrder": ("numbers are ordered as text", "session 10 comes before session 2"),
    "MajorAccepted": (
        "a document of another major version is read",
        "totals whose meaning changed are compared",
    ),
    "MinorRefused": (
        "a newer minor version is refused or taken silently",
        "readers break at every addition, or hide what they did not read",
    ),
}
"""Flag -> (the mistake, what it does to a figure). A vector carries the flags of what it catches."""


@dataclass
class Family:
    """One file of vectors."""

    name: str
    doc: str
    vectors: list[dict[str, Any]] = field(default_factory=list)

    def valid(
        self,
        name: str,
        clause: str,
        op: str,
        given: dict[str, Any],
        expected: dict[str, Any],
        text: str,
        *flags: str,
        tolerance: dict[str, float] | None = None,
        result: str = "valid",
    ) -> None:
        """Add an input that has one right answer."""
        vector = self._head(name, clause, op, result, text, flags)
        vector |= {"input": plain(given), "expected": plain(expected)}
        if tolerance is not None:
            vector["tolerance"] = plain(tolerance)
        self.vectors.append(vector)

    def invalid(self, name: str, clause: str, op: str, given: dict[str, Any], text: str, *flags: str) -> None:
        """Add an input that has to be refused."""
        self.vectors.append(self._head(name, clause, op, "invalid", text, flags) | {"input": plain(given)})

    def _head(
        self, name: str, clause: str, op: str, result: str, text: str, flags: tuple[str, ...]
    ) -> dict[str, Any]:
        notes = {"description": text}
        if flags:
            bug, effect = FLAGS[flags[0]]
            notes = {"bug": bug, "description": text, "effect": effect}
        return {
            "id": f"{self.name}-{name}",
            "clause": clause,
            "op": op,
            "result": result,
            "flags": sorted(set(flags)),
            "notes": notes,
        }

    def text(self) -> str:
        """The file: a member a line, so that a change shows as the line that changed."""
        used = sorted({flag for vector in self.vectors for flag in vector["flags"]})
        head = {
            "protocol": PROTOCOL,
            "family": self.name,
            "doc": self.doc,
            "flags": {flag: {"bug": FLAGS[flag][0], "effect": FLAGS[flag][1]} for flag in used},
        }
        lines = ["{"]
        for key in ("protocol", "family", "doc"):
            lines.append(f" {_json(key)}: {_json(head[key])},")
        lines.append(' "flags": {')
        lines += [f"  {_json(flag)}: {_json(text)}," for flag, text in head["flags"].items()]  # type: ignore[attr-defined]
        lines[-1] = lines[-1].removesuffix(",")
        lines += [" },", ' "vectors": [']
        for vector in self.vectors:
            lines.append("  {")
            lines += [f"   {_json(key)}: {_json(value)}," for key, value in vector.items()]
            lines[-1] = lines[-1].removesuffix(",")
            lines.append("  },")
        lines[-1] = "  }"
        return "\n".join([*lines, " ]", "}", ""])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def plain(value: Any) -> Any:
    """Fractions as the nearest binary numbers, everything else as it is."""
    if isinstance(value, Fraction):
        return float(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def dec(text: str) -> Fraction:
    """A decimal figure, exactly."""
    return Fraction(text)
