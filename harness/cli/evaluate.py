"""`kit evaluate MODEL`: score a model on a suite of benchmarks, under the meter."""

from __future__ import annotations

import os
import shlex
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import cpu_option, cpu_words, verbose_option

if TYPE_CHECKING:
    from harness.evaluation.suites import Suite

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("model", type=_FOLDER)
@click.option("--suite", "suite_name", required=True, metavar="NAME", help="Suite of benchmarks.")
@click.option("--benchmarks", metavar="A,B", help="Only these of the suite; then there is no Q.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="Only the first items of each; compares with nothing else."
)
@click.option("--judge", type=_FOLDER, help="Folder of the suite's judge; without it nothing is judged.")
@click.option("--judge-url", metavar="URL", help="Another judge, behind an OpenAI-compatible endpoint.")
@click.option("--judge-model", metavar="NAME", help="Its name there.  [key: KIT_JUDGE_KEY]")
@click.option("--teacher", type=_FILE, help="results.json of the teacher on the same suite, for Q.")
@click.option("--data", type=_FOLDER, help="Folder of benchmarks.  [env: KIT_BENCHMARKS]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder.  [default: runs/evaluate-MODEL]")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Ask everything so often."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: torch's choice]")
@click.option(
    "--judge-check", is_flag=True, help="MODEL is a judge: compare it with stored annotations instead."
)
@click.option("--dry-run", is_flag=True, help="Say what would be asked and what it would cost; ask nothing.")
@cpu_option
@verbose_option
def cmd(
    model: Path,
    suite_name: str,
    benchmarks: str | None,
    limit: int | None,
    judge: Path | None,
    judge_url: str | None,
    judge_model: str | None,
    teacher: Path | None,
    data: Path | None,
    out: Path | None,
    repeats: int,
    device: str,
    threads: int | None,
    judge_check: bool,
    dry_run: bool,
    cpu: str,
    verbose: bool,
) -> None:
    """Score MODEL, a folder with weights and tokenizer, on the benchmarks of a suite.

    Every stage is metered: the model's answers are stage `evaluate`, with a row for each benchmark, and a
    judge's work is stage `judge`. Stopped at any moment, the same command goes on where it was.
    """
    from harness.evaluation.suites import suite_named

    suite = suite_named(suite_name)
    names = [name for name in (benchmarks or "").split(",") if name]
    chosen = suite.chosen(names)
    if (judge_url is None) != (judge_model is None) or (judge is not None and judge_url is not None):
        raise click.UsageError("a judge is --judge DIR, or --judge-url URL with --judge-model NAME")
    judged = (judge or judge_url) is not None and any(benchmark.judged for benchmark in chosen)
    if judge_check and dry_run:
        raise click.UsageError("--judge-check asks the judge: it has no --dry-run")
    if judge_check:
        _judge_check(model, suite, limit, data, device)
        return
    elsewhere = (judge_url, judge_model) if judged and judge_url and judge_model else None
    if judged or dry_run:  # a judge that will be refused is refused before anything is answered
        tokenizer = _tokenizer_checked(model, suite, judge if judged else None, elsewhere)
        if dry_run:
            judge = judge if judged else None
            _dry_run(model, tokenizer, suite, names, limit, judge, elsewhere, teacher, data, device)
            return
    settings = {"benchmarks": ",".join(names) or None, "limit": limit, "data": _absolute(data)}
    common = {"teacher_results": _absolute(teacher), "device": device, "threads": threads}
    stages = [
        _stage(
            "evaluate",
            "evaluate",
            {"model": _absolute(model), "suite": suite.id, **settings, **common},
            "scores",
            {"model": _absolute(model)},
        )
    ]
    if judged:
        told = {"answers": "${stages.evaluate.out}", "judge": _absolute(judge), "data": _absolute(data)}
        told |= {"judge_url": judge_url, "judge_model": judge_model}
        read: dict[str, str | None] = {"answers": "${stages.evaluate.out}"}
        read |= {} if judge is None else {"judge": str(judge.absolute())}
        stages.append(_stage("judge", "judging", {**told, **common}, "judged", read))
    folder = (out or Path("runs") / f"evaluate-{model.resolve().name}").absolute()
    results = []
    for number in range(repeats):
        run_dir = folder if repeats == 1 else folder / f"repeat-{number + 1}"
        _run(run_dir, suite, stages, cpu, verbose)
        results.append(run_dir / "work" / ("judged" if judged else "scores") / "results.json")
    _show(suite, results, judged)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _stage(
    name: str, program: str, settings: dict[str, Any], out: str, inputs: dict[str, str | None]
) -> dict[str, Any]:
    words = ["python", "-m", f"harness.evaluation.{program}", "--out", "${outputs.out}"]
    for key, value in settings.items():
        words += [] if value is None else [f"--{key}", str(value)]
    return {
        "name": name,
        "kind": name,
        "command": words,
        "outputs": {"out": "${run_dir}/" + out},
        "inputs": inputs,
    }


def _run(run_dir: Path, suite: Suite, stages: list[dict[str, Any]], cpu: str, verbose: bool) -> None:
    import yaml

    from harness.audit.plan import load_plan
    from harness.audit.runner import run_plan
    from harness.bundle.resume import holds_run
    from harness.cli.console import RunDisplay, make_console, short_path
    from harness.files import write_bytes
    from harness.spec import current_version

    document = {
        "protocol": current_version(),
        "name": f"evaluate-{suite.suite}",
        "method": "other",
        "labels": list(suite.labels),
        "env": {
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
        },
        "stages": stages,
    }
    path = run_dir.with_name(f"{run_dir.name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "# Written by kit evaluate.\n" + yaml.safe_dump(document, sort_keys=False, width=110)
    write_bytes(path, text.encode())
    # The stages are the kit's own programs: `python` is the one that has them.
    own = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([own, os.environ.get("PATH", os.defpath)])
    plan = load_plan(path, run_dir=run_dir)
    words = ["kit", "audit", short_path(path), "--out", short_path(run_dir), "--resume", *cpu_words(cpu)]
    with RunDisplay(make_console(), plan, verbose=verbose, resume_command=shlex.join(words)) as display:
        result = run_plan(plan, display, resume_run=holds_run(plan.out_dir), cpu=cpu)
    display.summary(result)
    if result.exit_code:
        raise click.exceptions.Exit(result.exit_code)


def _show(suite: Suite, paths: list[Path], judged: bool) -> None:
    from harness.evaluation.results import read_results, score_text

    results = [read_results(path) for path in paths]
    click.echo(f"suite {', '.join([results[0]['suite'], *suite.labels])}; ± is half a 95 % interval")
    for rows in zip(*(found["benchmarks"] for found in results), strict=True):
        name = f"{rows[0]['name']} {rows[0]['metric']}"
        name += "" if rows[0]["filter"] == "none" else f" ({rows[0]['filter']})"
        click.echo(f"  {name}: {score_text(rows[0])}{_spread([row['score'] for row in rows])}")
    if not judged and results[0]["to_judge"]:
        click.echo(f"  {', '.join(results[0]['to_judge'])}: answered, not judged; --judge DIR judges them")
    elif results[0]["judge"]:
        from harness.evaluation.judge_check import published

        click.echo(f"  judged by {results[0]['judge']}: {published(results[0]['judge'])}")
    quality = results[0]["quality"]
    if quality is not None:
        click.echo(f"  Q {quality['q']:.3f}" if quality["q"] is not None else f"  Q: {quality['reason']}")
    click.echo(f"results: {', '.join(map(str, paths))}")


def _spread(scores: list[float | None]) -> str:
    known = [score for score in scores if score is not None]
    if len(scores) < 2 or len(known) < len(scores):
        return ""
    deviation = statistics.stdev(known)
    return f"; {len(known)} repeats: mean {statistics.fmean(known):.4g}, standard deviation {deviation:.2g}"


def _judge_check(model: Path, suite: Suite, limit: int | None, data: Path | None, device: str) -> None:
    from harness.errors import KitError
    from harness.evaluation.items import folder_of
    from harness.evaluation.judge_check import known_judges, read_annotations, worth
    from harness.evaluation.judging import load_judge
    from harness.models.devices import chosen_device
    from harness.models.generation import TokenWork

    if suite.judge is None or suite.judge.method != "template":
        raise KitError(
            f"suite {suite.suite} has no judge that is asked in words", expected="a template judge"
        )
    # Any model may be checked, not only the suite's own.
    spec = suite.judge.model_copy(update={"name": model.name, "revision": None, "weights_sha256": None})
    annotations = read_annotations(folder_of(data))[:limit]
    judge, _ = load_judge(
        spec,
        model,
        batch_size=suite.batch_size,
        device=chosen_device(device),
        work=TokenWork(),
        cache=None,
    )
    found = worth(judge, annotations)
    click.echo(f"{judge.id}: {found.pairs} pairs in both orders, {found.unparsed} unparsed")
    click.echo(f"  agrees with the stored annotations on {found.agreement:.1%} (chance: 50 %)")
    click.echo(f"  gives what is shown first {found.first_preferred:.3f} (0.5: no bias of place)")
    click.echo(f"  the same in both orders: {found.same_in_both_orders:.1%}")
    longer = f"{found.longer_preferred:.1%} (the annotations: {found.longer_annotated:.1%})"
    click.echo(f"  prefers the longer answer in {longer}")
    click.echo("published:")
    for row in known_judges():
        length = "" if row["prefers_longer"] is None else f", longer preferred {row['prefers_longer']:.0%}"
        click.echo(f"  {row['judge']}: {row['agreement_pct']} % on {row['against']}{length}")


def _tokenizer_checked(
    model: Path, suite: Suite, judge: Path | None, elsewhere: tuple[str, str] | None
) -> Any:
    """The model's tokenizer; refuses a model and a judge that the stages would refuse."""
    from harness.evaluation.loadable import check_endpoint, check_judge, check_model

    encoder = check_model(model, suite.dtype)
    if judge is not None and suite.judge is not None:
        check_judge(judge, suite.judge)
    if elsewhere is not None and suite.judge is not None:
        check_endpoint(*elsewhere, suite.judge)
    return encoder.tokenizer


def _dry_run(
    model: Path,
    tokenizer: Any,
    suite: Suite,
    names: list[str],
    limit: int | None,
    judge: Path | None,
    elsewhere: tuple[str, str] | None,
    teacher: Path | None,
    data: Path | None,
    device: str,
) -> None:
    """Say what the run would ask and cost."""
    from harness.accounting.rounding import quantity
    from harness.cli.console import duration
    from harness.evaluation.evaluate import asked_of, name_of
    from harness.evaluation.planned import PUBLISHED_KWH, card_here, plan, speed_of
    from harness.evaluation.results import read_results

    taught = None if teacher is None else read_results(teacher)
    card = card_here(device)
    asked = [asked_of(benchmark, data, limit) for benchmark in suite.chosen(names)]
    speed = speed_of(model, suite.dtype, card, suite.batch_size)
    other = None
    if judge is not None and suite.judge is not None:
        other = speed_of(judge, suite.judge.dtype, card, suite.batch_size)
    says = suite.judge.max_new_tokens if suite.judge is not None and suite.judge.method == "template" else 0
    rows = plan(asked, tokenizer, speed, other, says, suite.batch_size)
    click.echo(f"suite {suite.id}; a guess, without starting and loading: {speed.words}")
    for row in rows:
        tokens = f"about {row.prompt_tokens:,} tokens read, at most {row.generated_tokens:,} said"
        cost = f"{duration(row.seconds)}, {quantity(row.joules, 'J')}"
        click.echo(f"  {row.stage} {row.name}: {row.items} items, {row.answers} answers, {tokens}; {cost}")
    seconds, joules = sum(row.seconds for row in rows), sum(row.joules for row in rows)
    published = " and ".join(f"{kwh} kWh ({size})" for size, kwh in PUBLISHED_KWH.items())
    whole = f"{quantity(joules, 'J')} ({joules / 3.6e6:.3g} kWh)"
    click.echo(f"  together: {duration(seconds)}, {whole}; published: {published} a student")
    if elsewhere is not None:
        click.echo(f"  what {elsewhere[1]} draws to judge is not known here")
    elif judge is None and any(benchmark.judged for benchmark in suite.chosen(names)):
        click.echo("  without --judge nothing is judged, and there is no Q")
    if taught is not None and taught["suite"] != name_of(suite, limit):
        click.echo(f"  there is no Q: --teacher has scores of suite {taught['suite']}")
