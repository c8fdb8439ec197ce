"""The checks of preflight: each looks at one thing and says all it found. None stops at its first problem."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness.accounting.rounding import J_PER_KWH
from harness.doctor.inventory import Nvml, take_inventory
from harness.doctor.torch_build import too_old, torch_cuda
from harness.errors import KitError
from harness.experiments.pipelines import TOKENIZER
from harness.fetch.store import SPARE_BYTES, human
from harness.files import existing, free_bytes, package_version
from harness.planning.cards import Card
from harness.preflight.findings import Finding, Preflight, Status
from harness.preflight.memory import USABLE, Disk, disk_of, stage_memory
from harness.preflight.stages import Model, Outlook, Stage, model_at, recorded


@dataclass(frozen=True)
class Machine:
    """What the checks know of the machine.

    Attributes:
        nvml: Its GPUs.
        cuda: CUDA of the installed torch ("" for a CPU build, None without torch).
        vllm: Version of the installed vLLM; None without.
        free_bytes: Of the disk that holds a folder.
        assumed: A card to judge memory by where there is none.
    """

    nvml: Nvml
    cuda: str | None
    vllm: str | None
    free_bytes: Callable[[Path], int]
    assumed: Card | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether NVML shows a GPU that the job may use."""
        return self.nvml.error is None and any(gpu.error is None for gpu in self.nvml.selected)

    @property
    def card_bytes(self) -> int | None:
        """Memory of the GPU that a stage would use; of the assumed card where there is none."""
        sizes = [gpu.mem_mib for gpu in self.nvml.selected if gpu.error is None and gpu.mem_mib]
        if sizes:
            return max(sizes) << 20
        return None if self.assumed is None else self.assumed.memory_bytes


def this_machine(assumed: Card | None = None) -> Machine:
    """Look at this machine."""
    return Machine(take_inventory(), torch_cuda(), package_version("vllm"), free_bytes, assumed)


def check(outlook: Outlook, machine: Machine) -> Preflight:
    """Run every check; one that breaks becomes a problem of its own."""
    findings = list(outlook.findings)
    for look in CHECKS:
        try:
            findings += look(outlook, machine)
        except Exception as error:
            name = look.__name__.strip("_")
            findings.append(Finding(name, "preflight", "problem", f"the check itself failed: {error!r}"))
    return Preflight(outlook.name, tuple(findings))


def _on_card(stage: Stage) -> bool:
    """Whether a stage is meant to use a GPU."""
    device = getattr(stage.config, "device", "cpu")
    return bool(device != "cpu")


def _wants_gpu(outlook: Outlook) -> bool:
    return any(_on_card(stage) for stage in outlook.stages if stage.config is not None)


def gpu(outlook: Outlook, machine: Machine) -> Iterator[Finding]:
    """A card, one of them, and a driver that fits torch."""
    if not _wants_gpu(outlook):
        return
    if not machine.has_gpu:
        why = machine.nvml.error or "none is visible"
        yield Finding(
            "GPU", "machine", "problem", f"no GPU: {why}", "a machine with a card; kit doctor says more"
        )
        yield Finding("driver", "machine", "unknown", "no GPU")
        return
    chosen = [gpu for gpu in machine.nvml.selected if gpu.error is None]
    names = ", ".join(f"{gpu.index} ({gpu.model})" for gpu in chosen)
    if len(chosen) == 1:
        yield Finding("GPU", "machine", "ok", f"GPU {names}")
    else:
        found = f"{len(chosen)} GPUs are selected ({names}): all of them are billed while one works"
        yield Finding("GPU", "machine", "problem", found, f"export CUDA_VISIBLE_DEVICES={chosen[0].index}")
    yield from _driver(machine)


def _driver(machine: Machine) -> Iterator[Finding]:
    driver, cuda = machine.nvml.driver, machine.cuda
    if cuda is None:
        yield Finding("driver", "machine", "problem", "torch is not installed", "make setup-train TORCH=cuda")
    elif not cuda:
        found = "torch is a build without CUDA: every stage would compute on the CPU"
        yield Finding("driver", "machine", "problem", found, "make setup-train TORCH=cuda")
    elif least := too_old(driver, cuda):
        found = (
            f"driver {driver} is too old for torch's CUDA {cuda}, which needs {least}: torch would see no GPU"
        )
        yield Finding(
            "driver", "machine", "problem", found, f"driver {least} or newer, or a torch for older CUDA"
        )
    else:
        yield Finding("driver", "machine", "ok", f"driver {driver}, torch's CUDA {cuda}")


def device(outlook: Outlook, machine: Machine) -> Iterator[Finding]:
    """No stage may fall to the CPU in silence."""
    silent = [stage for stage in outlook.stages if getattr(stage.config, "device", "") == "auto"]
    for stage in silent:
        found = "device auto means the CPU where torch sees no GPU, without a word"
        yield Finding("device", stage.where, "problem", found, "device: cuda (or cpu, where that is meant)")
    others = [
        stage for stage in outlook.stages if getattr(stage.config, "device", None) not in (None, "auto")
    ]
    if others and not silent:
        places = ", ".join(sorted({stage.config.device for stage in others}))
        yield Finding("device", "all stages", "ok", f"{places}; a stage that cannot have it stops")


def engine(outlook: Outlook, machine: Machine) -> Iterator[Finding]:
    """The engine of the teacher's answers is said, there, and of one version."""
    for stage in outlook.of("teacher_generate"):
        config = stage.config
        if config.engine == "auto" and _on_card(stage):
            found = (
                "engine auto: vLLM where it is installed, else transformers at about four times the energy"
            )
            yield Finding("engine", stage.where, "problem", found, "engine: vllm, with vllm.version")
        elif config.engine == "vllm":
            yield _vllm(stage, machine)
            if config.vllm.max_model_len and config.vllm.max_model_len <= config.max_new_tokens:
                found = f"max_model_len {config.vllm.max_model_len} leaves no room for a prompt"
                yield Finding("engine", stage.where, "problem", found, "a larger vllm.max_model_len")
        else:
            yield Finding("engine", stage.where, "ok", config.engine)


def _vllm(stage: Stage, machine: Machine) -> Finding:
    wanted = stage.config.vllm.version
    if wanted is None:
        found = "vLLM of no version in particular: the engine decides the energy of an answer"
        return Finding("engine", stage.where, "problem", found, "vllm.version")
    if machine.vllm is None:
        found = f"vLLM {wanted} is wanted and not installed"
        # It installs only beside CUDA, so without a GPU its absence says nothing.
        status: Status = "problem" if machine.has_gpu else "unknown"
        return Finding(
            "engine", stage.where, status, found, f"the image `kit`, or pip install vllm=={wanted}"
        )
    if machine.vllm != wanted:
        found = f"vLLM {machine.vllm} is installed, {wanted} is wanted"
        return Finding("engine", stage.where, "problem", found, f"pip install vllm=={wanted}")
    return Finding("engine", stage.where, "ok", f"vLLM {wanted}")


def tokenizers(outlook: Outlook, machine: Machine) -> Iterator[Finding]:
    """Every tokenizer that a stage loads can be built; templates and vocabularies fit."""
    made: Model | None = None
    template: Model | None = None
    for stage in outlook.of("preprocess"):
        source = model_at(outlook, stage.config.tokenizer)
        if source is None:
            continue
        yield _buildable(stage, source, outlook)
        made = made or source
        if stage.config.chat_template is not None:
            template = template or model_at(outlook, stage.config.chat_template)
    for stage in outlook.of("teacher_generate", "evaluate"):
        if (
            getattr(stage.config, "tokenizer", None) is not None
            or stage.model is None
            or not stage.model.files
        ):
            continue
        finding = _buildable(stage, stage.model, outlook)
        yield finding
        used = template or made
        if finding.status == "ok" and used is not None and _differ(used, stage.model):
            found = f"its own chat template is not that of the data ({used.name}): it is refused after hours"
            yield Finding(
                "template", stage.where, "problem", found, _tokenizer_fix(stage, f"DATA/{TOKENIZER}", outlook)
            )
    yield from _templates(outlook, made, template)
    yield from _vocabularies(outlook, made)


def _tokenizer_fix(stage: Stage, folder: str, outlook: Outlook) -> str:
    """Where a stage's tokenizer is named: no option of the kit's own commands does it."""
    if outlook.profile is None:
        return f"--tokenizer {folder} in the stage's command in the pipeline file"
    if stage.program == "preprocess":
        return f"tokenizer: {folder} in the profile's file"
    return "take `tokenizer: null` out of the stage's settings in the profile's file"


def _buildable(stage: Stage, model: Model, outlook: Outlook) -> Finding:
    """Whether transformers can build a fast tokenizer from a folder's files."""
    lacking = [
        name for name in ("tokenizer.json", "tokenizer_config.json", "config.json") if name not in model.files
    ]
    how = "as recorded" if model.recorded else "on the disk"
    if lacking:
        found = (
            f"{model.name} lacks {', '.join(lacking)} ({how}): transformers 5 cannot build it from the rest"
        )
        return Finding(
            "tokenizer", stage.where, "problem", found, _tokenizer_fix(stage, "FOLDER-THAT-HAS-THEM", outlook)
        )
    if model.folder is not None:
        from harness.models.chat import ChatEncoder

        try:
            ChatEncoder.load(model.folder)
        except KitError as error:
            if not (
                stage.program == "preprocess" and stage.config.chat_template and "template" in error.message
            ):
                return Finding(
                    "tokenizer", stage.where, "problem", f"{model.name}: {error.message}", error.fix
                )
    return Finding("tokenizer", stage.where, "ok", f"{model.name}, {model.tokens or '?'} tokens ({how})")


def _differ(one: Model, other: Model) -> bool:
    known = one.leading_end_token is not None and other.leading_end_token is not None
    return known and one.leading_end_token != other.leading_end_token


def _templates(outlook: Outlook, made: Model | None, template: Model | None) -> Iterator[Finding]:
    """Whose chat template the data have, and whether the teacher knows it."""
    teachers = {
        stage.model.name: stage.model
        for stage in outlook.of("teacher_logits", "teacher_generate")
        if stage.model
    }
    for teacher in teachers.values():
        if made is None or made is teacher:
            continue
        used = template or made
        words = {True: "with", False: "without", None: "unknown whether with"}
        said = (
            f"{made.name} {words[made.leading_end_token]}, {teacher.name} {words[teacher.leading_end_token]}"
        )
        said += f" a leading end-of-text token; data and prompts take that of {used.name}"
        if template is None and _differ(made, teacher):
            said += ", so the teacher is prompted otherwise than it was trained"
        yield Finding("template", teacher.name, "ok", said)


def _vocabularies(outlook: Outlook, made: Model | None) -> Iterator[Finding]:
    rows = {
        stage.model.name: stage.model.shape.vocabulary
        for stage in outlook.of("teacher_logits", "teacher_generate", "student_train")
        if stage.model is not None and stage.model.shape is not None
    }
    if not rows:
        return
    tokens = None if made is None else made.tokens
    short = [name for name, count in rows.items() if tokens is not None and count < tokens]
    taught = {
        s.model.name: s.model.shape.vocabulary
        for s in outlook.of("teacher_logits")
        if s.model and s.model.shape
    }
    narrow = [
        stage.model.name
        for stage in outlook.of("student_train")
        if stage.config.regime == "kd"
        and stage.model
        and stage.model.shape
        and any(stage.model.shape.vocabulary < count for count in taught.values())
    ]
    for name in dict.fromkeys([*short, *narrow]):
        other = (
            f"a tokenizer of {tokens:,}" if name in short else f"a cache over {max(taught.values()):,} ids"
        )
        found = f"{rows[name]:,} rows in its vocabulary for {other}"
        yield Finding("vocabulary", name, "problem", found, "models and tokenizer of one family")
    if not short and not narrow:
        sizes = ", ".join(f"{count:,}" for count in sorted(set(rows.values())))
        said = f"{len(rows)} models with {sizes} rows" + (
            "" if tokens is None else f", tokenizer of {tokens:,}"
        )
        yield Finding("vocabulary", "all models", "ok", said)


def cells(outlook: Outlook, machine: Machine) -> Iterator[Finding]:
    """Every student can use the cache that the teacher will have left."""
    students = outlook.of("student_train")
    if not students:
        return
    from harness.distill.logit_cache import check_temperature

    stored = {
        tuple(sorted({t for t in stage.config.temperatures if t != 1}))
        for stage in outlook.of("teacher_logits")
    }
    refused = 0
    for stage in students:
        if stage.config.regime != "kd" or not stored:
            continue
        try:
            check_temperature(stage.config.temperature, stage.config.tail, next(iter(stored)))
        except KitError as error:
            refused += 1
            yield Finding("settings", stage.where, "problem", error.message, error.fix)
    if not refused:
        yield Finding(
            "settings", f"{len(students)} students", "ok", "every one can use what the teacher leaves"
        )


def memory(outlook: Outlook, machine: Machine) -> Iterator[Finding]:
    """Every stage fits the card at its own batch."""
    card = machine.card_bytes
    on_card = [stage for stage in outlook.stages if stage.config is not None and _on_card(stage)]
    if card is None:
        if on_card:
            yield Finding("memory", "all stages", "unknown", "no GPU, and no --gpu to judge by")
        return
    usable = int(card * USABLE)
    assumed = "" if machine.has_gpu else f" of {machine.assumed.name}, assumed" if machine.assumed else ""
    seen: set[tuple[str, int]] = set()
    for stage in on_card:
        need = stage_memory(stage, card)
        if need is None or (key := (stage.program, need.peak)) in seen:
            continue
        seen.add(key)
        found = f"{need.peak / 1e9:.1f} of {usable / 1e9:.1f} GB{assumed}" + (
            f"; {need.note}" if need.note else ""
        )
        fits = need.peak <= usable and need.slots != 0
        fix = "fewer rows, gradient checkpointing, or a card with more memory"
        data = {"peak_bytes": need.peak, "usable_bytes": usable}
        yield Finding("memory", stage.where, "ok" if fits else "problem", found, fix, data)


def disk(outlook: Outlook, machine: Machine) -> Iterator[Finding]:
    """Room for the whole run, not only for what is fetched."""
    if not outlook.assets and outlook.profile is None:
        yield Finding("disk", str(outlook.out), "unknown", "a pipeline's products have no stated size")
        return
    need = _need(outlook)
    for other in outlook.more:
        more = _need(other)
        need = replace(
            need,
            data=need.data + more.data,
            checkpoints=need.checkpoints + more.checkpoints,
            transient=max(need.transient, more.transient),
        )
    yield from _room(outlook, machine, need)


def _need(outlook: Outlook) -> Disk:
    labels = tokens = None
    amounts = outlook.profile.amounts if outlook.profile else None
    if amounts is not None:
        examples = sum(
            source.samples or 0 for stage in outlook.of("preprocess")[:1] for source in stage.config.sources
        )
        tokens = examples * amounts.tokens_per_example[2]
        labels = tokens * amounts.label_share[2]
    return disk_of(outlook, labels, tokens)


def _room(outlook: Outlook, machine: Machine, need: Disk) -> Iterator[Finding]:
    parts = (
        f"{human(need.data)} data, {human(need.checkpoints)} checkpoints, {human(need.transient)} for a while"
    )
    fetched = f"{human(need.missing)} to fetch of {human(need.fetched)}"
    places = {outlook.store.root: (need.missing, fetched), outlook.out: (need.runs, parts)}
    data = {"fetched_bytes": need.fetched, "missing_bytes": need.missing, "runs_bytes": need.runs}
    if existing(outlook.store.root).stat().st_dev == existing(outlook.out).stat().st_dev:
        places = {outlook.out: (need.missing + need.runs, f"{fetched}, {parts}")}
    for place, (size, parts) in places.items():
        if not size:
            continue
        free = machine.free_bytes(place)
        found = f"{human(size)} at the most ({parts}); {human(free)} free"
        status: Status = "ok" if free >= size + SPARE_BYTES else "problem"
        yield Finding("disk", str(place), status, found, "make room, or --out and KIT_CACHE elsewhere", data)


def time_and_energy(outlook: Outlook, machine: Machine) -> Iterator[Finding]:
    """What it takes, by the plan; never a problem, since nobody said how much is too much."""
    from harness.planning.cards import find_card
    from harness.preflight.plan import make_plan

    names = [gpu.model for gpu in machine.nvml.selected if gpu.error is None]
    card = next((card for name in names if (card := find_card(name))), machine.assumed)
    if card is None or outlook.profile is None or outlook.profile.amounts is None:
        yield Finding("time, energy", "all stages", "unknown", "no card to plan for, or no amounts of data")
        return
    try:
        plan = make_plan(outlook, card)
    except KitError as error:
        yield Finding("time, energy", "all stages", "unknown", error.message, error.fix)
        return
    hours, kwh = plan.seconds * (1 / 3600), plan.joules * (1 / J_PER_KWH)
    least = "at least" if plan.unplanned else "about"
    found = f"{least} {hours.likely:.0f} h ({hours.low:.0f} to {hours.high:.0f}) and {kwh.likely:.0f} kWh"
    found += f" ({kwh.low:.0f} to {kwh.high:.0f}) on one {card.name}; kit plan {outlook.name} says why"
    yield Finding("time, energy", "all stages", "ok", found)


def assets(outlook: Outlook, machine: Machine) -> Iterator[Finding]:
    """Licences, terms, and what is to be fetched; only configurations that are used."""
    for stage in outlook.of("preprocess"):
        for source in stage.config.sources:
            name = next((n for n, a in outlook.assets.items() if source.path == outlook.store.files(a)), None)
            if name is None or not source.subset or outlook.assets[name].include:
                continue
            found = f"fetched whole, though only its configuration {source.subset} is read"
            yield Finding("assets", name, "problem", found, "`include` in the lock of assets")
    missing = []
    for name, asset in outlook.assets.items():
        known = recorded().get(name, {})
        if fault := outlook.store.fault(asset):
            missing.append(f"{name} {fault}")
        if known.get("gated") and not os.environ.get("HF_TOKEN"):
            fix = "accept the terms on the repository's page and set HF_TOKEN"
            yield Finding("assets", name, "problem", "is given only to who accepted its terms", fix)
        elif known.get("licence") is None:
            yield Finding("assets", name, "unknown", "no licence is recorded")
    if outlook.assets:
        names = sorted({str(recorded().get(name, {}).get("licence")) for name in outlook.assets})
        gated = [name for name in outlook.assets if recorded().get(name, {}).get("gated")]
        terms = f"terms of {', '.join(gated)}" if gated else "none asks for terms"
        said = f"{len(outlook.assets)} assets under {', '.join(names)}; {terms} to be accepted"
        yield Finding("licences", "assets", "ok", said)
    if missing:
        size = sum(a.bytes for a in outlook.assets.values() if outlook.store.fault(a))
        found = f"{len(missing)} of {len(outlook.assets)} not on the disk, {human(size)}"
        yield Finding("assets", "assets", "to do", found, outlook.fetch)


def suites(outlook: Outlook, machine: Machine) -> Iterator[Finding]:
    """The benchmarks that evaluations name are there and no draft."""
    from harness.evaluation.suites import suite_named

    for name in sorted({stage.config.suite for stage in outlook.of("evaluate")}):
        try:
            suite_named(name)
        except KitError as error:
            yield Finding("suite", name, "problem", error.message, error.fix)
        else:
            yield Finding("suite", name, "ok", "every benchmark of it is pinned")


def repeatable(outlook: Outlook, machine: Machine) -> Iterator[Finding]:
    """What is not the kit's own program cannot be looked at."""
    for stage in outlook.stages:
        if not stage.program:
            yield Finding(
                "command", stage.where, "unknown", "not a program of the kit: nothing is known of its needs"
            )


CHECKS: tuple[Callable[[Outlook, Machine], Iterator[Finding]], ...] = (
    gpu,
    device,
    engine,
    tokenizers,
    cells,
    suites,
    memory,
    disk,
    time_and_energy,
    assets,
    repeatable,
)
