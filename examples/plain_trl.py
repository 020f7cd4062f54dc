"""The method alone, in a plain TRL script: no run folder, no pipeline, only `lorapar.adapter` beside TRL.

    python examples/plain_trl.py --model HuggingFaceTB/SmolLM2-135M-Instruct --out adapter

Every element of one LoRA adapter is scored on the rows of each system, the adapter is partitioned, then SFT trains
System 1's elements on System 1's rows, and GRPO trains System 2's elements on System 2's rows. In the rows below
System 1 recalls (says it at once) and System 2 calculates (thinks first). Put rows of your own in their place.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from lorapar.adapter import (
    AdapterSettings,
    attach,
    check_only_active_moved,
    masked_training,
    partition_elements,
    save_adapter,
    score_elements,
    snapshot,
    trainable_rank,
)

CAPITALS = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima", "Kenya": "Nairobi"}
SYSTEM1 = [(f"What is the capital of {country}?", capital) for country, capital in CAPITALS.items()] * 4
SYSTEM2 = [
    (f"What is {a} plus {b} times 2? Think step by step.", str(a + 2 * b)) for a in range(2, 8) for b in range(4)
]


def chat(question: str) -> list[dict[str, str]]:
    """The conversation that ends with a question."""
    return [{"role": "user", "content": question}]


def batches(tokenizer: PreTrainedTokenizerBase, rows: list[tuple[str, str]]) -> Iterator[dict[str, torch.Tensor]]:
    """One row each, with labels of -100 on the prompt: only the answer counts for the scores."""
    for question, answer in rows:
        prompt = tokenizer.apply_chat_template(chat(question), tokenize=False, add_generation_prompt=True)
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        ids = torch.tensor([tokenizer(prompt + answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]])
        labels = ids.clone()
        labels[:, :start] = -100
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def right_answer(completions: list[list[dict[str, str]]], answer: list[str], **_: object) -> list[float]:
    """GRPO's reward: 1.0 where the last word of a completion is the answer, else a tenth of its share of digits."""
    texts = [one[-1]["content"] for one in completions]
    digits = [sum(letter.isdigit() for letter in text) / max(1, len(text)) for text in texts]
    right = [text.split()[-1:] == [wanted] for text, wanted in zip(texts, answer, strict=True)]
    return [1.0 if found else 0.1 * share for found, share in zip(right, digits, strict=True)]


def main() -> None:
    """Train an adapter and write it as a PEFT folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="name on the hub, or a folder")
    parser.add_argument("--out", type=Path, default=Path("adapter"), help="folder for the adapter")
    parser.add_argument("--steps", type=int, default=20, help="steps of SFT, and of GRPO")
    parser.add_argument("--completion", type=int, default=64, help="longest completion of GRPO, in tokens")
    parser.add_argument("--theta", type=float, default=0.9, help="share of each system's total score that is kept")
    given = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(given.model)
    base = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)
    # The base model is never edited; one LoRA of twice the rank leaves its function as it was at the start.
    model = attach(base, AdapterSettings(rank=8, alpha=64), seed=0)

    scores = {
        "system1": score_elements(model, batches(tokenizer, SYSTEM1[:8])),
        "system2": score_elements(model, batches(tokenizer, SYSTEM2[:8])),
    }
    partition = partition_elements(scores, theta=given.theta, shared={"system1": 1.0, "system2": 1.0})
    for system, size in partition.sizes().items():
        print(f"{system}: {size.active:,} of {size.total:,} elements")

    common = {
        "max_steps": given.steps,
        "save_strategy": "no",
        "report_to": [],
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
    }

    def sft(optimizer: torch.optim.Optimizer) -> SFTTrainer:
        turns = [(chat(question), [{"role": "assistant", "content": answer}]) for question, answer in SYSTEM1]
        rows = Dataset.from_list([{"prompt": prompt, "completion": completion} for prompt, completion in turns])
        config = SFTConfig(str(given.out), per_device_train_batch_size=4, max_length=256, **common)
        return SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer, optimizers=(optimizer, None))

    def grpo(optimizer: torch.optim.Optimizer) -> GRPOTrainer:
        rows = Dataset.from_list([{"prompt": chat(question), "answer": answer} for question, answer in SYSTEM2])
        sizes = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": given.completion}
        config = GRPOConfig(str(given.out), **sizes, **common)
        return GRPOTrainer(model, right_answer, config, rows, processing_class=tokenizer, optimizers=(optimizer, None))

    for system, make_trainer, learning_rate in (("system1", sft, 2e-4), ("system2", grpo, 1e-5)):
        mask, before = partition.mask(system), snapshot(model)
        with masked_training(model, mask) as masked:
            trainer = make_trainer(masked.optimizer(lr=learning_rate))
            masked.undo_casts()  # what a trainer has cast gets its exact values back
            trainer.train()
        # Proof, bit for bit: nothing moved but this system's elements.
        moved = check_only_active_moved(before, snapshot(model), mask, trainable_rank(model))
        print(f"{system}: {moved.moved:,} of {moved.active:,} elements moved, and nothing else")

    save_adapter(model, given.out)
    print(f"adapter: {given.out}")


if __name__ == "__main__":
    main()
