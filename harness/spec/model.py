"""Frozen models of `protocol.yaml`.

Unknown keys are refused: a typo must not become a default. A key that a later version adds has a default
here, because the versions before it, which stay readable, lack it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import KitError
from harness.spec.document import DocumentSpec
from harness.spec.table import TableSpec, check_name, check_positive

if TYPE_CHECKING:
    import pyarrow as pa

_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True, kw_only=True)
class StageKind:
    """A kind of stage (2.1). What a program may ask of a kind is one of these properties, never its name.

    Attributes:
        inside: What belongs to such a stage.
        teacher: Its joules are the teacher's, charged once for all students that use its output (4.6).
        student: It trains the student: its joules are the student's, its tokens the run's (4.5).
        serves: It answers a fixed workload with a finished model: no training is charged for it (4.7).
        scores: It scores a model.
        judge: It scores the outputs of another stage's model, which names it (5.6).
        idle: It is a wait, by which idle power is known (2.6).
        derived: No program begins it; it is what the boundaries leave (2.4).
    """

    name: str
    doc: str
    clause: str
    inside: str | None = None
    teacher: bool = False
    student: bool = False
    serves: bool = False
    scores: bool = False
    judge: bool = False
    idle: bool = False
    derived: bool = False


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a pipeline distils with.

    Attributes:
        teacher: A teacher's output is used, which took energy somewhere.
    """

    name: str
    doc: str
    teacher: bool = False


@dataclass(frozen=True, kw_only=True)
class ServingWorkload:
    """What a model is asked so that its joules per served token compare (4.7).

    Attributes:
        engine: "transformers" or "vllm".
        batch: Prompts that the engine is given at once.
        prompts: How many there are.
        output_tokens: Tokens of every answer, no more and no fewer.
        rounds: How often all prompts are answered.
    """

    name: str
    engine: Literal["transformers", "vllm"]
    batch: int
    prompts: int
    output_tokens: int
    rounds: int

    def __post_init__(self) -> None:
        """Raises ValueError where a number cannot be."""
        check_positive(self, "batch", "prompts", "output_tokens", "rounds")


@dataclass(frozen=True, kw_only=True)
class PowerSource:
    """An instrument, real or not (4.1, 4.3); `harness.meter.sources` has a module of its name.

    Attributes:
        parts: Part -> how the names of the zones begin that are added up to it; `device` for devices.
        reads: "counter", "power" or both.
        unit: Of its counter.
        method: What the part's method column says; None for a source of devices.
        rank: The lowest that can be read here is used; None: only where it is asked for by name.
        words: What a report calls it.
        floor_mw: Part -> the least that one device or zone of it draws for ten seconds, idle.
    """

    name: str
    clause: str
    parts: dict[str, str]
    reads: tuple[Literal["counter", "power"], ...]
    unit: Literal["mJ", "uJ"]
    state: Literal["measured", "estimated", "simulated"]
    method: str | None
    rank: int | None
    words: str
    doc: str
    floor_mw: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError where its parts contradict each other."""
        check_name(self.name)
        if set(self.floor_mw) - set(self.parts):
            raise ValueError(f"source {self.name}: floor_mw of a part that it does not measure")
        if (self.method is None) != ("device" in self.parts.values()):
            raise ValueError(f"source {self.name}: a source of zones has a method, one of devices has none")
        if (self.unit == "uJ") != (self.method is not None):
            raise ValueError(f"source {self.name}: zones count uJ, devices mJ")


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A doubt about a row of stages.

    Attributes:
        words: In a sentence, with `{gap}` and its like where the row's own numbers stand.
        derived: It follows from raw rows.
        event: Kind of event that puts it on the stage it falls into.
        whole_run: It holds for the run; a report says it once.
    """

    name: str
    words: str
    derived: bool = False
    event: str | None = None
    whole_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Denominator:
    """A token count that J/token can be given by (4.5); `name` is a column of stages."""

    name: str
    doc: str


@dataclass(frozen=True, kw_only=True)
class SystemBoundary:
    """What the joules cover (1.1, 1.2)."""

    energy: Literal["it_joules"]
    components: tuple[str, ...]
    states: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SamplingRules:
    """Clause 3."""

    nominal_period_us: int
    gap_factor: float
    min_samples: int
    idle_min_us: int | None = None
    clock: str

    def __post_init__(self) -> None:
        """Raises ValueError where a number cannot be."""
        check_positive(self, "nominal_period_us", "min_samples")
        if not self.gap_factor > 1:
            raise ValueError(f"gap_factor is {self.gap_factor}, expected more than 1")


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """Bars of the validation rules; relative unless the name carries a unit."""

    closure_rel: float
    clock_step_event_us: int
    clock_step_error_us: int
    counter_vs_integral_remark: float
    counter_vs_integral_finding: float
    counter_vs_integral_finding_low_power: float
    low_power_mean_w: float
    short_stage_us: int
    sensor_rel: float
    estimate_low: float = 0.0
    estimate_high: float = 2.0
    program_rel: float = 0.2
    estimate_stage_rel: float = 0.01
    interval_coverage: float | None = None
    unsampled_share: float = 0.1
    unattributed_share: float = 0.1

    def __post_init__(self) -> None:
        """Raises ValueError where a number cannot be."""
        check_positive(self, "closure_rel")


@dataclass(frozen=True, kw_only=True)
class Container:
    """How tables become Parquet files (6.2)."""

    footer_prefix: str
    footer_keys: tuple[str, ...]
    compression: Literal["zstd"]
    compression_level: int
    row_group_rows: int
    part_rows: int

    def __post_init__(self) -> None:
        """Raises ValueError where a number cannot be."""
        check_positive(self, "row_group_rows", "part_rows")


@dataclass(frozen=True, kw_only=True)
class ComparabilityRules:
    """What two results must share to be ranked together (9)."""

    key: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One version of the protocol: `protocol.yaml`, its tables and the manifest."""

    version: str
    title: str
    clauses: dict[str, str]
    boundary: SystemBoundary
    stage_kinds: tuple[StageKind, ...]
    sources: tuple[PowerSource, ...] = ()
    extension_prefix: str
    methods: tuple[Method, ...]
    serving_workloads: tuple[ServingWorkload, ...] = ()
    sampling: SamplingRules
    tolerances: Tolerances
    denominators: tuple[Denominator, ...]
    flags: tuple[Flag, ...] = ()
    container: Container
    comparability: ComparabilityRules
    tables: dict[str, TableSpec]
    manifest: DocumentSpec

    _schemas: dict[tuple[str, bool], Any] = field(init=False, default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError where its parts contradict each other."""
        if not _VERSION.fullmatch(self.version):
            raise ValueError(f"version: {self.version!r} is no version such as '1.0.0'")
        clauses = [t.clause for t in self.tables.values()] + [k.clause for k in self.stage_kinds]
        clauses += [source.clause for source in self.sources]
        unknown = sorted(set(clauses) - set(self.clauses))
        if unknown:
            raise ValueError(f"clause without a title: {', '.join(unknown)}")
        lost = [role for role in ("teacher", "student", "judge", "idle") if not self.kinds(role)]
        if lost:
            raise ValueError(f"no stage kind has the property {lost[0]!r}")
        if "stages" in self.tables:
            stages = self.tables["stages"]
            allowed = set(stages.column("stage").enum or ())
            kinds = {kind.name for kind in self.stage_kinds} | {f"{self.extension_prefix}*"}
            if allowed != kinds:
                raise ValueError(f"stages.stage and stage_kinds differ in {sorted(allowed ^ kinds)}")
            lost = sorted({d.name for d in self.denominators} - set(stages.names))
            if lost:
                raise ValueError(f"denominators that stages does not carry: {lost}")

    @property
    def major(self) -> int:
        """Readers refuse another one."""
        return int(self.version.split(".")[0])

    @property
    def kind_names(self) -> tuple[str, ...]:
        """Names of the stage kinds, in the protocol's order."""
        return tuple(kind.name for kind in self.stage_kinds)

    def kinds(
        self, role: Literal["teacher", "student", "serves", "scores", "judge", "idle"]
    ) -> tuple[str, ...]:
        """Names of the stage kinds with a property, in the protocol's order."""
        return tuple(kind.name for kind in self.stage_kinds if getattr(kind, role))

    def workload(self, name: str) -> ServingWorkload:
        """A serving workload by its name.

        Raises:
            KitError: There is none of that name.
        """
        for workload in self.serving_workloads:
            if workload.name == name:
                return workload
        known = ", ".join(workload.name for workload in self.serving_workloads)
        raise KitError(f"no serving workload {name!r}", where="serve", expected=f"one of {known}")

    def named_kinds(self, *, idle: bool = True) -> tuple[str, ...]:
        """Names of the stage kinds that a stage can be begun with; `idle` ones are left out if False."""
        return tuple(k.name for k in self.stage_kinds if not k.derived and (idle or not k.idle))

    def check_kind(self, name: str, where: str, *, idle: bool = True) -> str:
        """The kind a stage is begun with, as given.

        Args:
            name: A stage kind, or an extension such as `x-quantize`.
            where: What an error calls it.
            idle: Whether a program may begin an idle stage here.

        Raises:
            KitError: It is neither; the nearest kind is named.
        """
        names = self.named_kinds(idle=idle)
        if name in names or re.fullmatch(rf"{self.extension_prefix}[a-z0-9][a-z0-9_-]{{0,60}}", name):
            return name
        expected = ", ".join((*names, f"{self.extension_prefix}<your own>"))
        from difflib import get_close_matches

        near = get_close_matches(name.lower(), names, n=1, cutoff=0.6)
        own = f"name a kind of your own with {self.extension_prefix}, such as {self.extension_prefix}warmup"
        fix = f"did you mean {near[0]!r}?" if near else own
        if name in self.kind_names:
            fix = "that one is written by the kit itself"
        raise KitError(f"{name!r} is not a stage kind", where=where, expected=expected, fix=fix)

    def flag_named(self, name: str) -> Flag | None:
        """A flag by its name; None for a word of somebody's own."""
        return next((flag for flag in self.flags if flag.name == name), None)

    @property
    def event_flags(self) -> dict[str, str]:
        """Kind of event to the flag it puts on the stage it falls into."""
        return {flag.event: flag.name for flag in self.flags if flag.event is not None}

    @property
    def method_names(self) -> tuple[str, ...]:
        """Names of the methods, in the protocol's order."""
        return tuple(method.name for method in self.methods)

    @property
    def taught_methods(self) -> tuple[str, ...]:
        """Names of the methods that use a teacher's output."""
        return tuple(method.name for method in self.methods if method.teacher)

    def source(self, name: str, *, part: str | None = None) -> PowerSource:
        """The source called `name`.

        Raises:
            KitError: There is none, or it does not measure `part`.
        """
        fitting = {s.name: s for s in self.sources if part is None or part in s.parts}
        if name not in fitting:
            raise KitError(
                f"{name!r} is no source" + (f" of {part} energy" if part else ""),
                where="sources",
                expected=f"one of {', '.join(fitting)}",
            )
        return fitting[name]

    def sources_of(self, part: str, *, ranked: bool = True) -> tuple[PowerSource, ...]:
        """The sources of a part, the preferred one first; with `ranked` only those used unasked."""
        found = [s for s in self.sources if part in s.parts and (s.rank is not None or not ranked)]
        return tuple(sorted(found, key=lambda s: (s.rank is None, s.rank or 0)))

    def method_states(self) -> dict[str, str]:
        """Method of CPU or DRAM energy -> "measured", "estimated" or "simulated"."""
        return {s.method: s.state for s in self.sources if s.method is not None}

    def state_of(self, methods: Iterable[str], sources: Iterable[str] = ()) -> str:
        """State of a component in the manifest (1.2): the worst of what its energy came from.

        Args:
            methods: Values of its method column.
            sources: Values of counters.source, for devices.
        """
        found = set(methods) - {"absent"}
        if not found:
            return "absent"
        states = {self.method_states().get(method, "measured") for method in found}
        states |= {source.state for source in self.sources if source.name in set(sources)}
        return next(state for state in ("simulated", "estimated", "measured") if state in states)

    def arrow_schema(self, name: str, *, encoded: bool = False) -> pa.Schema:
        """Arrow schema of a table: nullable flags, `unit` and `PARQUET:field_id` as field metadata.

        Args:
            name: Table.
            encoded: Strings as dictionaries.
        """
        if (name, encoded) not in self._schemas:
            from harness.spec.arrow import build_schema

            self._schemas[name, encoded] = build_schema(self.tables[name], encoded=encoded)
        return self._schemas[name, encoded]
