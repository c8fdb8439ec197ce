"""How much of a real teacher a logit cache holds, and what its loss loses: python scripts/kept_mass.py

Teacher: SmolLM2-135M-Instruct out of its wheel. Student: every third of its layers, trained for some steps on
this project's own pages. On other pages: the teacher's mass on the stored ids at T = 1, 2, 4, and the cosine
between the gradient of the cached loss and that of the KL over the whole vocabulary, with respect to the
student's last hidden states, by a dense computation in float64. Written: artifacts/evidence/kept_mass.txt.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import evidence

from harness.distill.cache_format import CacheSpec
from harness.distill.distributions import DistributionRows, distribution_rows
from harness.models.losses import TeacherRows, kd_loss

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "artifacts" / "evidence" / "kept_mass.txt"
TRAINED_ON, MEASURED_ON = (
    ("PROTOCOL.md", "docs/measuring.md"),
    ("README.md", "docs/deciding.md", "SECURITY.md"),
)
TEMPERATURES = (1.0, 2.0, 4.0)
CODE = ("harness/distill", "harness/models")
ROW = 256
EVERY = 3


def rows_of(spec: CacheSpec, rows: DistributionRows) -> TeacherRows:
    """Rows of the cache as training reads them."""
    a_t = {t: rows.a_t[:, n] for n, t in enumerate(spec.temperatures)}
    return TeacherRows(ids=rows.ids.long(), logp=rows.logp.half().float(), log_tail=rows.log_tail, a_t=a_t)


def whole_gradient(
    hidden: torch.Tensor, weight: torch.Tensor, logits: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Gradient of T^2 KL(p_T || q_T) over the whole vocabulary, float64 [P, d] (Hinton et al. 2015)."""
    h = hidden.double().requires_grad_()
    q = torch.log_softmax(h @ weight.double().t() / temperature, -1)
    p = torch.log_softmax(logits.double() / temperature, -1)
    (found,) = torch.autograd.grad(temperature**2 * (p.exp() * (p - q)).sum(), h)
    return found


def cosine(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    teacher: TeacherRows,
    whole: torch.Tensor,
    temperature: float,
) -> float:
    """Cosine between the gradient of the cached loss (bucket) and the whole one."""
    h = hidden.clone().requires_grad_()
    loss = kd_loss(h, weight, labels, teacher, alpha=0.0, temperature=temperature, tail="bucket").total
    (found,) = torch.autograd.grad(loss, h)
    return float(torch.nn.functional.cosine_similarity(whole.flatten(), found.double().flatten(), 0))


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="of the student's training")
    parser.add_argument("--rows", type=int, default=8, help=f"of {ROW} tokens to measure on")
    options = parser.parse_args()
    torch.manual_seed(0)
    folder = evidence.WORK / "smollm2-135m"
    if not (folder / "config.json").exists():
        evidence.unpack(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokens(names: tuple[str, ...]) -> torch.Tensor:
        text = "\n\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)
        ids = torch.tensor(tokenizer(text).input_ids)
        return ids[: len(ids) // ROW * ROW].view(-1, ROW)

    teacher = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    student = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    evidence.keep_layers(student, range(0, len(student.model.layers), EVERY))
    train = tokens(TRAINED_ON)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-4)
    for step in range(options.steps):
        batch = train[torch.randint(len(train), (2,))]
        loss = student(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, options.steps - 1):
            print(f"student: step {step + 1}, {loss.item():.2f} nats", flush=True)
    text = tokens(MEASURED_ON)[: options.rows]
    with torch.no_grad():
        logits = teacher(text).logits[:, :-1].flatten(0, 1)
        hidden = student.base_model(text).last_hidden_state[:, :-1].flatten(0, 1)
    labels, weight = text[:, 1:].flatten(), student.get_output_embeddings().weight.detach()
    lines = [
        "# python scripts/kept_mass.py",
        f"# code sha256 {evidence.code_digest(CODE)}",
        f"# SmolLM2-135M-Instruct, {len(labels)} positions, vocabulary {logits.shape[1]}",
        f"{'cache':22}{'ids':>6}" + "".join(f"{f'mass T={t:g}':>11}{'cosine':>8}" for t in TEMPERATURES),
    ]
    whole = {t: whole_gradient(hidden, weight, logits, t) for t in TEMPERATURES}
    size, warm = logits.shape[1], TEMPERATURES[1:]
    for name, spec in (
        ("top 100", CacheSpec(vocab_size=size, k=100, temperatures=warm)),
        ("top 1000", CacheSpec(vocab_size=size, k=1000, temperatures=warm)),
        (
            "nucleus 0.02, k 100",
            CacheSpec(vocab_size=size, k=100, mode="nucleus", eps=0.02, temperatures=warm),
        ),
    ):
        rows = distribution_rows(logits.clone(), labels, spec)
        cached = rows_of(spec, rows)
        ids = float(spec.k) if rows.lengths is None else rows.lengths.double().mean().item()
        found = [
            f"{mass:>11.3f}{cosine(hidden, weight, labels, cached, whole[t], t):>8.3f}"
            for t, mass in zip(TEMPERATURES, rows.kept.double().mean(0).tolist(), strict=True)
        ]
        lines.append(f"{name:22}{ids:>6.0f}" + "".join(found))
    print("\n".join(lines[2:]))
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
