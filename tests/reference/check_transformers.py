"""Does `transformers` load a model folder of ours, and compute the same embeddings?

  cargo xtask embed --model RUN/checkpoints/best --preset hf --long-audio head a.wav b.wav --text "a dog" > ours.jsonl
  check_transformers.py RUN/checkpoints/best ours.jsonl [BASE]

With BASE, the model folder that a run with [lora] started from, the model is BASE with RUN/checkpoints/best/adapter as PEFT (0.17.1) loads it;
what the adapters do not hold (heads, temperatures) is taken from the run.
Prints keys that are missing or unexpected and the least cosine; exits with 1 unless every cosine is at least 0.99999.
Sound files have to have the model's sampling rate, so that two resamplers are not compared.
"""
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import soundfile, torch
from transformers import ClapFeatureExtractor, ClapModel, RobertaTokenizerFast

folder, lines = sys.argv[1], [json.loads(line) for line in open(sys.argv[2])]
model, info = ClapModel.from_pretrained(folder, output_loading_info=True)
if len(sys.argv) > 3:
    from peft import PeftModel

    trained = model
    adapted = PeftModel.from_pretrained(ClapModel.from_pretrained(sys.argv[3]), os.path.join(folder, "adapter"))
    layers = [name for name, _ in adapted.named_parameters() if ".lora_A." in name]
    model = adapted.merge_and_unload()
    ours = trained.state_dict()
    worst = max(float((weight - ours[name]).abs().max()) for name, weight in model.state_dict().items() if name.endswith(("query.weight", "value.weight")))
    print(f"{len(layers)} adapters; merged by PEFT, query and value matrices are within {worst:.1e} of the run's")
    for name in ("audio_projection", "text_projection"):
        getattr(model, name).load_state_dict(getattr(trained, name).state_dict())
model.eval()
print({key: value for key, value in info.items() if value} or "every key found, none left over")
extract = ClapFeatureExtractor.from_pretrained(folder)
tokenizer = RobertaTokenizerFast.from_pretrained(folder)
worst = 1.0
for line in lines:
    with torch.no_grad():
        if line["kind"] == "audio":
            wave, rate = soundfile.read(line["id"], dtype="float32", always_2d=True)
            assert rate == extract.sampling_rate, f"{line['id']} has {rate} Hz, the model {extract.sampling_rate}"
            wave = wave.mean(1)[: extract.nb_max_samples]
            theirs = model.get_audio_features(**extract(wave, sampling_rate=rate, return_tensors="pt"))
        else:
            theirs = model.get_text_features(**tokenizer(line["id"], return_tensors="pt"))
    theirs = torch.nn.functional.normalize(theirs, dim=-1)[0]
    cosine = float(torch.tensor(line["embedding"]) @ theirs)
    worst = min(worst, cosine)
    print(f"{cosine:.8f}  {line['kind']:5} {line['id']}")
print(f"least cosine {worst:.8f}")
sys.exit(worst < 0.99999)
