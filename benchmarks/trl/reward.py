"""A single reward model trained offline by TRL, for `lm_labels.py`, which runs this with the python that has trl 1.16.

    PYTHON benchmarks/trl/reward.py MODEL PAIRS OUT [--epochs 10] [--learning-rate 3e-4] [--seed 0]

MODEL is a folder of a causal language model, PAIRS a JSON file with a list of {prompt, chosen, rejected}, OUT the
folder for the reward model: the language model's layers with one number at the end, all trained.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    datasets, torch, transformers, trl = map(_module, ("datasets", "torch", "transformers", "trl"))
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.set_seed(options.seed)  # it draws the weights of the last layer
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    trainer = trl.RewardTrainer(
        model=model,
        args=trl.RewardConfig(
            output_dir=str(options.out / "trainer"),
            num_train_epochs=options.epochs,
            learning_rate=options.learning_rate,
            seed=options.seed,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            logging_steps=10**6,
            save_strategy="no",
            dataloader_pin_memory=False,
        ),
        train_dataset=datasets.Dataset.from_list(json.loads(options.pairs.read_text())),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.model.save_pretrained(options.out)


def _module(name: str) -> Any:
    """A library of the other environment."""
    return importlib.import_module(name)


if __name__ == "__main__":
    main()
