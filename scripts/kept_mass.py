"""How much of a real teacher a logit cache holds, and what its loss loses: python scripts/kept_mass.py

Teacher: SmolLM2-135M-Instruct out of its wheel, on its own sampled answers. Student: every third of its
layers, trained for some steps on other answers. Printed: the teacher's mass on the stored ids at T = 1, 2, 4,
and the cosine between the gradient of the cached loss and that of the KL over the whole vocabulary, with
respect to the student's last hidden states, by a dense computation in float64. Written:
artifacts/evidence/kept_mass.txt and the table of docs/models.md; `--table` writes the table alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import evidence

from harness.distill.cache_format import CacheSpec
from harness.distill.distributions import DistributionRows, distribution_rows
from harness.models.losses import TeacherRows, kd_loss

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "artifacts" / "evidence" / "kept_mass.txt"
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- kept_mass.txt -->\n", evidence.END
STALE = evidence.STALE
TEMPERATURES = (1.0, 2.0, 4.0)
CODE = ("harness/distill", "harness/models")
ANSWER = 128
EVERY = 3
PROMPTS = tuple(
    f"{ask} {about}."
    for about in ("the water cycle", "a bicycle", "the moon", "bread", "a river", "the number zero")
    for ask in (
        "Explain in a few sentences",
        "Write a short story about",
        "List five facts about",
        "Ask me about",
    )
)
"""What the teacher answers: the last third is measured on, the others are trained on."""


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


def answers(teacher: Any, tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The teacher's answers at T = 1.

    Returns:
        ids int64 [prompts, tokens], prompts before them, filled on the left; labels of the same shape, -100
        where no answer stands; int64 mask, 0 where filled.
    """
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    tokenizer.padding_side = "left"
    asked = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        ids = teacher.generate(**asked, do_sample=True, top_k=0, max_new_tokens=ANSWER)
    labels, start = ids.clone(), asked["input_ids"].shape[1]
    labels[:, :start] = -100
    ended = (labels == tokenizer.eos_token_id).cumsum(1)
    labels[(ended > 1) | ((ended == 1) & (ids != tokenizer.eos_token_id))] = -100
    return ids, labels, torch.nn.functional.pad(asked["attention_mask"], (0, ids.shape[1] - start), value=1)


def table(record: str) -> str:
    """The record as the page shows it."""
    digest = record.partition("code sha256 ")[2].split("\n")[0]
    about, _, *rows = [line for line in record.splitlines() if not line.startswith(("# python", "# code"))]
    lines = [
        f"{about.lstrip('# ')}:",
        "",
        "| cache | ids | mass at T = 1, 2, 4 | cosine at T = 1, 2, 4 |",
        "|---|---|---|---|",
    ]
    for row in rows:
        ids, *found = row[22:].split()
        lines.append(f"| {row[:22].strip()} | {ids} | {', '.join(found[::2])} | {', '.join(found[1::2])} |")
    return ("" if digest == evidence.code_digest(CODE) else STALE) + "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="of the student's training")
    parser.add_argument(
        "--table", action="store_true", help="write the page's table from the record, no more"
    )
    options = parser.parse_args()
    if options.table:
        evidence.write_table(PAGE, BEGIN, table(OUT.read_text(encoding="utf-8")))
        return
    torch.manual_seed(0)
    folder = evidence.WORK / "smollm2-135m"
    if not (folder / "config.json").exists():
        evidence.unpack(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    teacher = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    student = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    evidence.keep_layers(student, range(0, len(student.model.layers), EVERY))
    ids, labels, mask = answers(teacher, tokenizer)
    print(f"teacher: {len(ids)} answers", flush=True)
    cut = 2 * len(ids) // 3
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-4)
    for step in range(options.steps):
        batch = torch.randint(cut, (4,))
        loss = student(ids[batch], attention_mask=mask[batch], labels=labels[batch]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, options.steps - 1):
            print(f"student: step {step + 1}, {loss.item():.2f} nats", flush=True)
    wanted = labels[cut:, 1:] != -100
    with torch.no_grad():
        logits = teacher(ids[cut:], attention_mask=mask[cut:]).logits[:, :-1][wanted]
        hidden = student.base_model(ids[cut:], attention_mask=mask[cut:]).last_hidden_state[:, :-1][wanted]
    labels, weight = labels[cut:, 1:][wanted], student.get_output_embeddings().weight.detach()
    lines = [
        "# python scripts/kept_mass.py",
        f"# code sha256 {evidence.code_digest(CODE)}",
        f"# SmolLM2-135M-Instruct, {len(labels)} positions of its own answers, {logits.shape[1]:,} ids",
        f"{'cache':22}{'ids':>6}" + "".join(f"{f'mass T={t:g}':>11}{'cosine':>8}" for t in TEMPERATURES),
    ]
    whole = {t: whole_gradient(hidden, weight, logits, t) for t in TEMPERATURES}
    size, warm = logits.shape[1], TEMPERATURES[1:]
    for name, spec in (
        ("top 100", CacheSpec(vocab_size=size, k=100, temperatures=warm)),
        ("top 1000", CacheSpec(vocab_size=size, k=1000, temperatures=warm)),
        ("nucleus 0.02", CacheSpec(vocab_size=size, k=1000, mode="nucleus", eps=0.02, temperatures=warm)),
    ):
        rows = distribution_rows(logits.clone(), labels, spec)
        cached = rows_of(spec, rows)
        stored = float(spec.k) if rows.lengths is None else rows.lengths.double().mean().item()
        found = [
            f"{mass:>11.3f}{cosine(hidden, weight, labels, cached, whole[t], t):>8.3f}"
            for t, mass in zip(TEMPERATURES, rows.kept.double().mean(0).tolist(), strict=True)
        ]
        lines.append(f"{name:22}{stored:>6.0f}" + "".join(found))
    print("\n".join(lines[2:]))
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    evidence.write_table(PAGE, BEGIN, table("\n".join(lines) + "\n"))
    print(f"kept_mass: written {OUT.relative_to(ROOT)} and the table of {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
