"""Peak memory and time of the chunked distillation loss against the plain formulation, one process each.

    python scripts/bench_kd_loss.py                          # 4 x 1024 label positions, V = 100,352
    python scripts/bench_kd_loss.py --device cuda --hidden 5120 --dtype bfloat16

Forward and backward into hidden states and output matrix. The peak is above what the inputs and the two
gradients occupy: on a CPU the process's high-water mark (VmHWM), on a GPU the allocator's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.models.losses import TeacherRows, kd_loss, sft_loss

CASES = ("plain SFT", "chunked SFT", "plain KD (partial sum)", "plain KD (bucket)", "chunked KD (bucket)")
ALPHA = 0.5


def plain_sft(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the whole [positions, vocabulary] float32 logits."""
    logits = (hidden @ weight.t()).float()
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")


def plain_kd(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    rows: TeacherRows,
    temperature: float,
    bucket: bool,
) -> torch.Tensor:
    """The same loss as autograd makes it from the definition; `bucket` adds the tail."""
    logits = (hidden @ weight.t()).float()
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    logp, log_tail = rows.at(temperature, "bucket")
    logp, log_tail = logp.float(), log_tail.float()
    log_q = torch.log_softmax(logits / temperature, dim=1)
    kl = (logp.exp() * (logp - log_q.gather(1, rows.ids))).sum()
    if bucket:
        rest = torch.logsumexp(log_q.scatter(1, rows.ids, -torch.inf), dim=1)
        kl = kl + (log_tail.exp() * (log_tail - rest)).sum()
    return ALPHA * ce + (1 - ALPHA) * temperature**2 * kl


def measure(case: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one case in this process: the best repeat's seconds and CPU seconds, peak bytes, loss per label."""
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    hidden = torch.randn(options.positions, options.hidden, device=device).to(dtype)
    weight = (torch.randn(options.vocabulary, options.hidden, device=device) * options.hidden**-0.5).to(dtype)
    labels = torch.randint(options.vocabulary, (options.positions,), device=device)
    shape = (options.positions, options.k)
    offset = torch.randint(options.vocabulary, (options.positions, 1), device=device)
    ids = (offset + torch.arange(options.k, device=device) * 7) % options.vocabulary
    scores = torch.log_softmax(torch.randn(shape, device=device) * 3, dim=1) - 0.02
    logp = scores.sort(dim=1, descending=True).values
    a_t = torch.logsumexp(logp / options.temperature, dim=1) + 0.1
    rows = TeacherRows(ids, logp, torch.log1p(-logp.exp().sum(1)), {options.temperature: a_t})
    hidden.requires_grad_()
    weight.requires_grad_()
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    before = _memory(device, reset=True)
    seconds, cpu = [], []
    value = 0.0
    for _ in range(options.repeats):
        _wait(device)
        start, start_cpu = time.perf_counter(), time.process_time()
        if case == "plain SFT":
            loss = plain_sft(hidden, weight, labels)
        elif case == "chunked SFT":
            loss = sft_loss(hidden, weight, labels, chunk=options.chunk).total
        elif case.startswith("plain KD"):
            loss = plain_kd(hidden, weight, labels, rows, options.temperature, "bucket" in case)
        else:
            loss = kd_loss(
                hidden,
                weight,
                labels,
                rows,
                alpha=ALPHA,
                temperature=options.temperature,
                chunk=options.chunk,
            ).total
        (loss / options.positions).backward()
        value = loss.item() / options.positions
        del loss
        _wait(device)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    peak = _memory(device, reset=False) - before
    return {"seconds": min(seconds), "cpu": min(cpu), "peak": peak, "loss": value}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(device: torch.device, *, reset: bool) -> int:
    """Bytes in use now (reset) or at most since the reset."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
            return int(torch.cuda.memory_allocated(device))
        return int(torch.cuda.max_memory_allocated(device))
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    key = "VmRSS:" if reset else "VmHWM:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no memory lines")


def main() -> None:
    """Measure every case in its own process and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--positions", type=int, default=4 * 1024, help="label positions")
    parser.add_argument("--vocabulary", type=int, default=100_352)
    parser.add_argument("--hidden", type=int, default=256, help="hidden size")
    parser.add_argument("--k", type=int, default=100, help="cached ids a position")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--chunk", type=int, default=None, help="positions at a time; default as in training")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help="measure this one here and print JSON")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options)))
        return
    results = {}
    for case in CASES:
        command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results[case] = json.loads(output.splitlines()[-1])
    print(
        f"{options.positions} positions, V={options.vocabulary:,}, d={options.hidden}, K={options.k}, "
        f"T={options.temperature:g}, {options.dtype}, {options.device}, {torch.get_num_threads()} threads"
    )
    print(f"{'':24} {'peak MB':>9} {'s':>7} {'CPU s':>7} {'loss/token':>11}")
    for case, row in results.items():
        numbers = f"{row['peak'] / 1e6:9.0f} {row['seconds']:7.2f} {row['cpu']:7.2f} {row['loss']:11.5f}"
        print(f"{case:24} {numbers}")
    for ours, plain in (
        ("chunked SFT", "plain SFT"),
        ("chunked KD (bucket)", "plain KD (bucket)"),
        ("chunked KD (bucket)", "plain KD (partial sum)"),
    ):
        memory, wall, cpu = (results[plain][key] / results[ours][key] for key in ("peak", "seconds", "cpu"))
        print(
            f"{ours} against {plain}: {memory:.1f}x less memory, {wall:.2f}x the speed ({cpu:.2f}x in CPU s)"
        )


if __name__ == "__main__":
    main()
