"""Which faults of attention, rope, norms, routing and activations are drawn at random? By formula, on the run's own
inputs."""

from __future__ import annotations

import math

import numpy as np
import torch
from random_faults import Drawn, Tensor, World, edited, entered, sut

from parity.fingerprint import causes as C
from parity.ladder.replay import ReplayedSite


def turned(x: Tensor, angle: Tensor, *, interleaved: bool = False) -> Tensor:
    """Rotate [T, H, K] by [T, P] radians, halves (or neighbours) paired; elements past 2 P stay."""
    pairs = angle.shape[1]
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    out = x.clone()
    if interleaved:
        a, b = x[..., 0 : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2]
        out[..., 0 : 2 * pairs : 2], out[..., 1 : 2 * pairs : 2] = a * cos - b * sin, b * cos + a * sin
        return out
    a, b = x[..., :pairs], x[..., pairs : 2 * pairs]
    out[..., :pairs], out[..., pairs : 2 * pairs] = a * cos - b * sin, b * cos + a * sin
    return out


def rope(w: World) -> Drawn | None:
    part = w.one("q", "k")
    site = w.site(f"attn.{part}_rope")
    x, theta, dim = entered(site, f"attn.{part}_norm"), float(w.hyper["rope_theta"]), int(w.hyper["head_dim"])
    at = torch.arange(len(x)).float()
    how = w.one("theta", "yarn", "linear", "partial", "offset", "late offset", "pairing", "restart", "reversed", "none")
    omega = theta ** (-torch.arange(0, dim, 2).float() / dim)
    cause, note = C.ROPE_POSITION, ""
    if how == "theta":
        other = theta * float(np.exp(w.rng.uniform(-5, 3)))
        value = turned(x, at[:, None] * other ** (-torch.arange(0, dim, 2).float() / dim))
        cause, note = C.ROPE_THETA, f"{other:.4g}"
    elif how in ("yarn", "linear"):
        scale = float(w.one(2, 4, 8, 64))
        first = int(w.rng.integers(4, len(omega) - 4)) if how == "yarn" else 0
        omega = torch.where(torch.arange(len(omega)) >= first, omega / scale, omega)
        gain = 1 + 0.1 * math.log(scale) if how == "yarn" and w.one(True, False) else 1.0
        value, cause = gain * turned(x, at[:, None] * omega), C.ROPE_SCALING
        note = f"/{scale} from {first} gain {gain:.2f}"
    elif how == "partial":
        used = w.one(dim // 4, dim // 2, 3 * dim // 4)
        value = turned(x, at[:, None] * theta ** (-torch.arange(0, used, 2).float() / used))
        cause, note = C.ROPE_PARTIAL, f"{used}"
    elif how == "none":
        value, cause = x, C.ROPE_PARTIAL
    elif how == "pairing":
        value, cause = turned(x, at[:, None] * omega, interleaved=True), C.ROPE_PAIRING
    elif how == "reversed":
        value, cause = turned(x, -at[:, None] * omega), C.ROPE_PAIRING
    else:
        start = int(w.rng.integers(30, len(x) - 60))
        by = w.one(1, -1, 2, 7, -16)
        if how == "offset":
            at = at + by
        elif how == "late offset":
            at, note = torch.where(at >= start, at + by, at), f"from {start}"
        else:
            at, note = torch.where(at >= start, at - start, at), f"from {start}"
        value = turned(x, at[:, None] * omega)
    return Drawn(edited(site, value), (cause,), f"{part} {how} {note}")


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, hidden: Tensor, heads: list[int] | None = None) -> Tensor:
    """Attention of [T, H, K] over [C, G, K]; hidden: [T, C] bool; heads: key head of each query head."""
    group = heads if heads is not None else [h // (q.shape[1] // k.shape[1]) for h in range(q.shape[1])]
    scores = torch.einsum("thk,shk->hts", q, k[:, group]) * scale
    weights = scores.masked_fill(hidden, -math.inf).softmax(-1).nan_to_num(0.0)
    return torch.einsum("hts,shk->thk", weights, v[:, group])


def attention(w: World) -> Drawn | None:
    site = w.site("attn.context")
    q, k, v = (entered(site, f"attn.{name}") for name in ("q_rope", "k_rope", "v"))
    n, dim = len(q), q.shape[2]
    at = torch.arange(n)
    hidden, scale, heads = at[None, :] > at[:, None], dim**-0.5, None
    how = w.one("scale", "window", "chunk", "short", "diagonal", "no sink", "future", "block", "slots k", "slots v",
                "slots kv", "late slots", "e4m3 cache", "kv heads", "one kv head")  # fmt: skip
    cause, note = (C.ATTENTION_REACH,), ""
    if how == "scale":
        factor = w.factor(0.05, 8)
        scale, cause, note = scale * factor, (C.SOFTMAX_SCALE,), f"x{factor:.3g}"
    elif how == "window":
        size = int(w.rng.integers(8, n // 2))
        hidden, note = hidden | (at[None, :] <= at[:, None] - size), f"{size}"
    elif how == "chunk":
        size = w.one(64, 128, 100, 256)
        hidden, note = hidden | (at[None, :] < at[:, None] // size * size), f"{size}"
        cause = (C.CHUNK_BOUNDARY, C.ATTENTION_REACH)
        if not size < n:
            return None
    elif how == "short":
        size = int(w.rng.integers(n // 3, n - 20))
        hidden, note = hidden | ((at[None, :] >= size) & (at[:, None] >= size)), f"keys past {size}"
    elif how == "diagonal":
        hidden = at[None, :] >= at[:, None]
        hidden[0, 0] = False
    elif how == "no sink":
        first = w.one(1, 4, 64)
        hidden = hidden | ((at[None, :] < first) & (at[:, None] >= first))
        note = f"keys below {first}"
    elif how == "future":
        by = w.one(1, 16, n)
        hidden, note = at[None, :] > at[:, None] + by, f"{by} ahead"
    elif how == "block":
        size = w.one(32, 64, 128)
        hidden = hidden | ((at[None, :] >= at[:, None] // size * size) & (at[:, None] >= size))
        note = f"own block of {size}"
    elif how in ("slots k", "slots v", "slots kv", "late slots"):
        by, start = w.one(1, -1, 2, 16), 0
        if how == "late slots":
            start = int(w.rng.integers(20, n - 60))
        order = torch.arange(n)
        order[start:] = (order[start:] - by).clamp(start, n - 1)
        if how != "slots v":
            k = k[order]
        if how != "slots k":
            v = v[order]
        cause, note = (C.KV_SLOTS,), f"by {by} from {start}"
    elif how == "e4m3 cache":
        k, v = (t.clamp(-448, 448).to(torch.float8_e4m3fn).float() for t in (k, v))
        cause = (C.E4M3_GRID,)
    elif how == "kv heads":
        heads = [h % k.shape[1] for h in range(q.shape[1])]
        cause = (C.HEADS_PERMUTED,)
    else:
        heads = [w.one(*range(k.shape[1]))] * q.shape[1]
        cause = (C.HEADS_ALIASED,)
    value = attend(q, k, v, scale, hidden, heads)
    return Drawn(edited(site, value), cause, f"{how} {note}")


def norm(w: World) -> Drawn | None:
    site = w.site(w.one("attn.norm", "mlp.norm", "final_norm", "attn.q_norm", "attn.k_norm"))
    x = entered(site, next(iter(site.inputs)))
    healthy, eps = sut(site), 1e-6
    weight = healthy.reshape(-1, x.shape[-1]) / (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)).reshape(
        -1, x.shape[-1]
    )
    weight = weight.nanmedian(0).values
    how = w.one("skipped", "no division", "no weight", "eps", "layernorm")
    if how == "skipped":
        return Drawn(edited(site, x), (C.MISSING_NORM,), f"{site.stage} {how}")
    if how == "no division":
        return Drawn(edited(site, x * weight), (C.MISSING_NORM,), f"{site.stage} {how}")
    if how == "no weight":
        unit = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        return Drawn(edited(site, unit), (C.MISSING_NORM, C.CHANNEL_RATIO), f"{site.stage} {how}")
    if how == "eps":
        squares = x.square().mean(-1, keepdim=True)
        big = float(squares.median()) * float(np.exp(w.rng.uniform(-3, 0)))
        value = x * torch.rsqrt(squares + big) * weight
        return Drawn(edited(site, value), (C.ROW_RATIO, C.CONSTANT_RATIO), f"{site.stage} eps {big:.3g}")
    centred = x - x.mean(-1, keepdim=True)
    value = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps) * weight
    return Drawn(edited(site, value), (C.MISSING_NORM,), f"{site.stage} {how}")


def residual(w: World) -> Drawn | None:
    site = w.site(w.one("resid.mid", "resid.out"))
    name = w.one(*site.inputs)
    times = w.one(-1, 1, -2, 0.5)
    return Drawn(edited(site, sut(site) + times * entered(site, name)), (C.MISSING_RESIDUAL,), f"{name} {1 + times}x")


def routing_weights(w: World) -> Drawn | None:
    site = w.site("moe.topk_weights")
    logits, ids = entered(site, "moe.router_logits"), site.inputs["moe.topk_ids"].long()
    how = w.one("all", "sigmoid", "raw", "temperature", "scaled")
    cause = (C.WEIGHTS_NOT_NORMALIZED,)
    if how == "temperature":
        value = (logits * w.factor(0.2, 2)).gather(1, ids).softmax(1)
        cause = (C.WEIGHTS_NOT_NORMALIZED, C.SOFTMAX_SCALE)
    elif how == "scaled":
        value, cause = sut(site) * w.factor(0.01, 2), (C.CONSTANT_RATIO,)
    else:
        value = {"all": logits.softmax(1), "sigmoid": logits.sigmoid(), "raw": logits}[how].gather(1, ids)
        # Without the softmax both are said rightly: the function is missing, and the sum is not 1.
        cause = cause if how == "all" else (*cause, C.GATE_TRANSFORM)
    return Drawn(edited(site, value), cause, how)


def expert_ids(w: World) -> Drawn | None:
    site = w.site("moe.topk_ids")
    logits = entered(site, "moe.router_logits")
    how = w.one("shifted rows", "smallest", "one too far", "random")
    k = site.inputs["moe.router_logits"].shape[1]
    slots = site.sut.tensor.shape[1]  # type: ignore[union-attr]
    ids = site.sut.tensor.clone()  # type: ignore[union-attr]
    if how == "shifted rows":
        ids = ids.roll(1, 0)
    elif how == "smallest":
        ids = logits.argsort(1)[:, :slots]
    elif how == "one too far":
        ids = (ids + 1) % k
    else:
        ids = torch.from_numpy(np.stack([w.rng.permutation(k)[:slots] for _ in range(len(ids))]))
    return Drawn(edited(site, ids), (C.ROUTER_WRONG_IDS,), how)


def activation(w: World) -> Drawn | None:
    site = w.site("moe.act")
    gate, up = entered(site, "moe.gate"), entered(site, "moe.up")
    how = w.one("swapped", "none", "sigmoid", "gelu", "up alone", "no up")
    f = torch.nn.functional
    value = {
        "swapped": f.silu(up) * gate, "none": gate * up, "sigmoid": gate.sigmoid() * up, "gelu": f.gelu(gate) * up,
        "up alone": up, "no up": f.silu(gate),
    }[how]  # fmt: skip
    cause = (C.GATE_UP_SWAPPED,) if how == "swapped" else (C.GATE_TRANSFORM,)
    return Drawn(edited(site, value), cause, how)


def swapped_projection(w: World) -> Drawn | None:
    stage, other = w.one(("moe.gate", "moe.up"), ("moe.up", "moe.gate"))
    site = w.site(stage)
    partner = w.replay.site(site.layer, other).sut
    assert partner is not None
    return Drawn(edited(site, partner.tensor.float()), (C.GATE_UP_SWAPPED,), stage)


def wrong_buffer(w: World) -> Drawn | None:
    """A projection reads another buffer of its layer."""
    site = w.site(w.one("attn.q", "attn.k", "moe.router_logits", "mlp.norm", "moe.up"))
    read = w.one("attn.norm", "resid.mid", "attn.out", "mlp.norm")
    own = next(n for n in site.inputs if n != "moe.topk_ids")
    if read == own or (site.stage, read) == ("mlp.norm", "mlp.norm"):
        return None
    other = w.replay.site(site.layer, read).sut
    assert other is not None
    value = _again(w, site, {own: other.tensor})
    return Drawn(edited(site, value), (C.WRONG_INPUT,), f"{site.stage} reads {read}")


def old_input(w: World) -> Drawn | None:
    """From the second chunk on a projection reads the first chunk's rows again."""
    site = w.site(w.one("attn.q", "attn.v", "attn.out"))
    own = next(iter(site.inputs))
    x = site.inputs[own].clone()
    chunk = 256
    if len(x) < chunk + 20:
        return None
    size = min(chunk, len(x) - chunk)
    x[chunk : chunk + size] = x[:size]
    accepted = (C.CHUNK_BOUNDARY, C.WRONG_INPUT, C.ROWS_SHIFTED)
    return Drawn(edited(site, _again(w, site, {own: x})), accepted, f"{site.stage} {chunk}")


def _again(w: World, site: ReplayedSite, inputs: dict[str, Tensor]) -> Tensor:
    """The recipe's stage on other inputs."""
    assert site.sut is not None
    given = {**site.inputs, **inputs}
    positions = torch.from_numpy(site.sut.position)
    return w.replay.oracle.replay(site.stage, site.layer, given, positions=positions, recipe=w.recipe)


def chunk_step(w: World) -> Drawn | None:
    """From one chunk on an error in every row, of no known shape."""
    site = w.site(w.one("attn.out", "attn.v", "moe.experts"))
    x = sut(site)
    start = 256  # where the run's second chunk begins
    if len(x) < start + 20:
        return None
    x[start:] += float(w.rng.uniform(0.1, 1)) * w.randn(x)[start:]
    return Drawn(edited(site, x), (C.CHUNK_BOUNDARY,), f"{site.stage} {start}")
