"""PyTorch's counterparts of our operations, for `cargo xtask bench --ops --python`.

  echo "forward softmax 256x4x64x64" | bench_ops.py --threads 2      the seconds of one run; `both` is forward and backward

The names are those of crates/clap-nn/benches/*.rs, and `adam htsat-tiny roberta` that of xtask/src/bench/case.rs. An operation runs forward
without gradients, or forward and backward from a sum, all inputs requiring gradients.
"""
import stopwatch
import math, platform, sys, time
import torch
import torch.nn.functional as F
import clapref as C

torch.set_num_threads(stopwatch.threads())
torch.manual_seed(0)
LEAST = 0.02
OPS = {}


def op(name, *shapes):
    def register(function):
        OPS[name] = shapes, function
        return function
    return register


for rows, width, hidden in ((16384, 96, 288), (1024, 384, 1536), (1232, 768, 3072)):
    op(f"linear {rows}x{width} to {hidden}", (rows, width), (hidden, width), (hidden,))(F.linear)

op("GELU 16384x384", (16384, 384))(F.gelu)


def feed_forward(xs, norm_weight, norm_bias, weight1, bias1, weight2, bias2):
    ys = F.layer_norm(xs, xs.shape[-1:], norm_weight, norm_bias)
    return xs + F.linear(F.gelu(F.linear(ys, weight1, bias1)), weight2, bias2)


for tokens, c in ((4096, 96), (256, 384)):
    op(f"feed-forward block 4x{tokens}x{c}", (4, tokens, c), (c,), (c,), (4 * c, c), (4 * c,), (c, 4 * c), (c,))(feed_forward)


@op("softmax 256x4x64x64", (256, 4, 64, 64))
def softmax(xs):
    return F.softmax(xs, -1)


def layer_norm(xs, weight, bias):
    return F.layer_norm(xs, xs.shape[-1:], weight, bias)


for rows, width in ((16384, 96), (1232, 768)):
    op(f"layer norm {rows}x{width}", (rows, width), (width,), (width,))(layer_norm)

op("normalize 4608x512", (4608, 512))(lambda xs: F.normalize(xs, dim=-1))
IDS = torch.arange(16 * 77).reshape(16, 77) * 7919 % 50_265
op("embedding 50265x768 of 16x77", (50_265, 768))(lambda table: F.embedding(IDS, table))
op("dropout 16x77x768", (16, 77, 768))(lambda xs: F.dropout(xs, 0.1, True))


@op("residual with drop path 4x4096x96", (4, 4096, 96), (4, 4096, 96))
def residual(xs, branch):
    return xs + branch * (torch.empty(4, 1, 1).bernoulli_(0.9) / 0.9)


def contrastive(audio, text, scale):
    """clap_module/loss.py::ClipLoss on one machine, and its two products."""
    labels = torch.arange(len(audio))
    logits = scale * audio @ text.T
    return (F.cross_entropy(logits, labels) + F.cross_entropy(scale * text @ audio.T, labels)) / 2


for pairs in (768, 4608):
    op(f"contrastive loss {pairs}x512", (pairs, 512), (pairs, 512), (1,))(contrastive)

MASK = torch.zeros(16, 1, 1, 77).masked_fill(torch.arange(77) >= 20, torch.finfo(torch.float32).min)


@op("attention 16x77x768, 12 heads", *[(16, 77, 768)] * 3)
def attention(q, k, v):
    q, k, v = (x.view(16, 77, 12, 64).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=MASK).transpose(1, 2).reshape(16, 77, 768)


def windows(xs, side):
    """(batch, side², c) → (batch · windows, 64, c)."""
    batch, _, c = xs.shape
    return xs.view(batch, side // 8, 8, side // 8, 8, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 64, c)


def shift_mask(side):
    """(windows, 64, 64): transformers' ClapAudioLayer.get_attn_mask."""
    image, region = torch.zeros(1, side, side, 1), 0
    for rows in (slice(0, -8), slice(-8, -4), slice(-4, None)):
        for columns in (slice(0, -8), slice(-8, -4), slice(-4, None)):
            image[:, rows, columns] = region
            region += 1
    regions = windows(image.view(1, side * side, 1), side).view(-1, 64)
    return (regions[:, None] != regions[:, :, None]).float() * -100.0


MASKS = {side: shift_mask(side) for side in (64, 16)}


def window_attention(qkv, bias):
    """Shifted windows as in transformers: roll, split, attend, put back, roll."""
    batch, tokens, c = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    side, heads = math.isqrt(tokens), bias.shape[0]
    rolled = torch.roll(qkv.view(batch, side, side, 3 * c), (-4, -4), (1, 2)).reshape(batch, tokens, 3 * c)
    q, k, v = windows(rolled, side).view(-1, 64, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1) / math.sqrt(c // heads) + bias
    scores = scores.view(batch, -1, heads, 64, 64) + MASKS[side][None, :, None]
    ys = F.softmax(scores.view(-1, heads, 64, 64), -1) @ v
    ys = ys.transpose(1, 2).reshape(batch, side // 8, side // 8, 8, 8, c).permute(0, 1, 3, 2, 4, 5).reshape(batch, side, side, c)
    return torch.roll(ys, (4, 4), (1, 2)).reshape(batch, tokens, c)


def window_attention_block(xs, norm_weight, norm_bias, weight, bias, proj_weight, proj_bias, scores_bias):
    qkv = F.linear(F.layer_norm(xs, xs.shape[-1:], norm_weight, norm_bias), weight, bias)
    return xs + F.linear(window_attention(qkv, scores_bias), proj_weight, proj_bias)


for tokens, c, heads in ((4096, 96, 4), (256, 384, 16)):
    size = f"4x{tokens}x{c}, {heads} heads"
    op(f"window attention {size}", (4, tokens, 3 * c), (heads, 64, 64))(window_attention)
    op(f"window attention block {size}", (4, tokens, c), (c,), (c,), (3 * c, c), (3 * c,), (c, c), (c,), (heads, 64, 64))(
        window_attention_block)

# PyTorch's maps have their channels first, as the reference's programs do.
op("convolution 3x3 2x250x16x256 to 256", (2, 256, 250, 16), (256, 256, 3, 3))(lambda xs, weight: F.conv2d(xs, weight, padding=1))
op("convolution 5x5 2x500x32x64 to 128", (2, 64, 500, 32), (128, 64, 5, 5))(lambda xs, weight: F.conv2d(xs, weight, padding=2))


@op("convolution 3x3, norm, ReLU, pool 2x500x32x64 to 128", (2, 64, 500, 32), (128, 64, 3, 3), (128,), (128,))
def unit(xs, weight, norm_weight, norm_bias):
    ys = F.conv2d(xs, weight, padding=1)
    return F.avg_pool2d(F.relu(F.batch_norm(ys, torch.zeros(128), torch.ones(128), norm_weight, norm_bias)), 2)


@op("batch norm 2x1001x64x64, training", (2, 64, 1001, 64), (64,), (64,))
def batch_norm(xs, weight, bias):
    return F.batch_norm(xs, torch.zeros(64), torch.ones(64), weight, bias, training=True)


op("average pool 2x1001x64x64", (2, 64, 1001, 64))(lambda xs: F.avg_pool2d(xs, 2))


@op("patches 4x4 4x1x256x256", (4, 1, 256, 256))
def patches(xs):
    return xs.view(4, 64, 4, 64, 4).transpose(2, 3).reshape(4, 64, 64, 16)


@op("merge patches 4x4096x96", (4, 4096, 96))
def merge_patches(xs):
    xs = xs.view(4, 64, 64, 96)
    return torch.cat([xs[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1).view(4, 1024, 384)


def repeated(run):
    """Seconds of one run, by as many as fill `LEAST`."""
    start, runs = time.perf_counter(), 0
    while True:
        run()
        runs += 1
        elapsed = time.perf_counter() - start
        if elapsed >= LEAST:
            return elapsed / runs


def adam(audio, text):
    model, _ = C.laion_model({"htsat-tiny": "HTSAT-tiny", "pann-14": "PANN-14"}[audio], text)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return torch.optim.Adam(parameters, lr=1e-5, fused=True).step


def make(line):
    direction, _, name = line.partition(" ")
    if direction == "adam":
        return adam(*name.split())
    if name not in OPS:
        sys.exit(f"{line}: no such operation here")
    shapes, function = OPS[name]
    backward = direction == "both"
    inputs = [torch.randn(shape, requires_grad=backward) for shape in shapes]

    def run():
        with torch.set_grad_enabled(backward):
            ys = function(*inputs)
            if backward:
                torch.autograd.grad(ys.sum(), inputs)
    return run


stopwatch.serve(make, f"Python {platform.python_version()}, torch {torch.__version__}", repeated)
