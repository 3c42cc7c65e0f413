"""An adapter by PEFT for the tiny model of scripts/train_goldens.py, and what it computes.

    python scripts/peft_fixture.py             writes guard-train/testdata/peft/
    python scripts/peft_fixture.py FOLDER      loads the adapter that our tests wrote to FOLDER
                                               (GUARD_PEFT_FOLDER) and compares the logits
"""

import json
import pathlib
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

TESTDATA = pathlib.Path(__file__).parent.parent / "guard-train" / "testdata"
TOKENS = [5, 9, 33, 60, 1, 2, 17, 17, 44]


def base():
    return LlamaForCausalLM.from_pretrained(TESTDATA / "tiny", dtype=torch.float32).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0]


def write():
    torch.manual_seed(3)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"],
                        task_type="CAUSAL_LM", use_rslora=True)
    model = get_peft_model(base(), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    folder = TESTDATA / "peft"
    model.peft_config["default"].base_model_name_or_path = "tiny"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "adapter_model.safetensors").chmod(0o644)
    golden = {"tokens": TOKENS, "base": logits(base()).flatten().tolist(), "logits": logits(model).flatten().tolist()}
    (folder / "logits.json").write_text(json.dumps(golden) + "\n")


def check(folder):
    found = torch.tensor(json.loads((folder / "logits.json").read_text()))
    expected = logits(PeftModel.from_pretrained(base(), folder).eval()).flatten()
    apart = (found - expected).abs().max().item()
    moved = (expected - logits(base()).flatten()).abs().max().item()
    print(f"largest difference {apart:.2e}; the adapter moves a logit by up to {moved:.2f}")
    assert apart < 1e-3 < moved


if __name__ == "__main__":
    check(pathlib.Path(sys.argv[1])) if len(sys.argv) > 1 else write()
