"""Does this repository load a bare checkpoint as `laion_clap` saves it, and compute the same embeddings?

  check_bare_laion.py make FOLDER tokenizer.json          # writes 630k.pt, 630k-fusion.pt and three sounds; the tokenizer is copied
  cargo xtask embed --model FOLDER/630k.pt --long-audio head FOLDER/*.wav --text "a dog" > ours.jsonl
  check_bare_laion.py compare FOLDER/630k.pt FOLDER/tokenizer.json ours.jsonl

The models have LAION's full sizes (HTSAT-tiny, RoBERTa base) and made-up weights. `compare` prints the least cosine and exits
with 1 unless every one is at least 0.99999. Any RoBERTa tokenizer will do, since both programs are given its ids; LAION's is not
fetched. The sounds have 48 kHz, so that two resamplers are not compared; the fused model draws its crops of long ones by chance, so
that only short ones are compared with it.
"""
import json, os, shutil, sys
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import numpy, soundfile, tokenizers, torch
import clapref

SOUNDS = {"short": 3 * 48_000, "whole": 480_000, "long": 13 * 48_000}

def make(folder, tokenizer):
    os.makedirs(folder, exist_ok=True)
    for seed, (name, samples) in enumerate(SOUNDS.items()):
        soundfile.write(f"{folder}/{name}.wav", clapref.synth_i16(samples, seed), 48_000, subtype="PCM_16")
    shutil.copy(tokenizer, f"{folder}/tokenizer.json")
    for name, fusion in [("630k", False), ("630k-fusion", True)]:
        model, _ = clapref.laion_model(fusion=fusion, seed=7)
        state = {f"module.{key}": value for key, value in model.state_dict().items()}
        # As trained ones: numpy's scalars, and what transformers of that time kept in the text tower.
        state.setdefault("module.text_branch.embeddings.position_ids", torch.arange(514)[None])
        optimizer = {"state": {}, "param_groups": [{"lr": numpy.float64(1e-4), "params": [0]}]}
        torch.save({"epoch": 45, "name": name, "state_dict": state, "optimizer": optimizer}, f"{folder}/{name}.pt")

def compare(checkpoint, tokenizer, lines):
    state = torch.load(checkpoint, weights_only=False)["state_dict"]
    state = {key.removeprefix("module."): value for key, value in state.items()}
    fusion = any("fusion_model" in key for key in state)
    model, config = clapref.laion_model(fusion=fusion)
    print(model.load_state_dict(state, strict=False))
    tokenizer = tokenizers.Tokenizer.from_file(tokenizer)
    worst = 1.0
    for line in map(json.loads, open(lines)):
        with torch.no_grad():
            if line["kind"] == "audio":
                wave, rate = soundfile.read(line["id"], dtype="float32")
                assert rate == 48_000
                if len(wave) > 480_000:
                    if fusion:
                        continue
                    wave = wave[:480_000]
                data = clapref.laion().data
                wave = data.int16_to_float32_torch(data.float32_to_int16_torch(torch.from_numpy(wave)))
                sample = data.get_audio_features({}, wave, 480_000, "fusion" if fusion else "rand_trunc", "repeatpad",
                                                 config["audio_cfg"])
                theirs = model.get_audio_embedding([sample])
            else:
                ids = torch.tensor([tokenizer.encode(line["id"]).ids])
                theirs = model.get_text_embedding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        cosine = float(torch.tensor(line["embedding"]) @ theirs.reshape(-1))
        worst = min(worst, cosine)
        print(f"{cosine:.8f}  {line['kind']:5} {line['id']}")
    print(f"least cosine {worst:.8f}")
    sys.exit(worst < 0.99999)

{"make": make, "compare": compare}[sys.argv[1]](*sys.argv[2:])
