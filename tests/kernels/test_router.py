"""Does the router choose the right experts, in the right order, with the right weights?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import pytest
import torch

from parity.errors import DtypeError, ShapeError
from parity_kernels.router.launch import router_launch
from parity_kernels.router.op import router
from parity_kernels.router.reference import router_reference

# tokens around the compiled tile (32) and the smallest interpreted one (16); hidden around the compiled step of 128.
CASES = [
    # tokens, hidden, experts, top_k
    (0, 64, 12, 2),
    (1, 384, 12, 2),
    (15, 127, 12, 12),
    (17, 129, 16, 1),
    (31, 128, 17, 3),
    (33, 384, 12, 2),
    (20, 2048, 128, 8),
    (9, 100, 256, 8),
    (5, 32, 1, 1),
]


def make(tokens, hidden, experts, generator, device):
    x = torch.randn(tokens, hidden, generator=generator).to(torch.bfloat16)
    weight = (torch.randn(experts, hidden, generator=generator) * 2 / hidden**0.5).to(torch.bfloat16)
    return x.to(device), weight.to(device)


def logit_bound(x, weight):
    """Products of bf16 pairs are exact in fp32; D additions, each off by at most 2^-23 of the sum of magnitudes (one
    ulp: a tensor core truncates where an FPU rounds)."""
    return x.shape[1] * 2.0**-23 * (x.double().abs() @ weight.double().abs().T)


def weight_bound(weights, x, weight):
    """Every logit off by at most d moves a softmax weight by a factor exp(2 d), a renormalized one by as much; exp of
    arguments up to 40 and E-term sums add (E + 128) 2^-23. 1.1 is for second order."""
    tokens, experts = len(x), len(weight)
    d = logit_bound(x, weight).amax(dim=1, keepdim=True) if tokens else torch.zeros(0, 1, device=x.device)
    return 1.1 * weights * (4 * d + (experts + 128) * 2.0**-23) + 2.0**-126


def ranked(logits, top_k):
    """The ids that fp32 logits demand: descending, ties to the lower id (a stable sort keeps their order)."""
    return logits.cpu().sort(dim=1, descending=True, stable=True).indices[:, :top_k].to(torch.int32)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize(("tokens", "hidden", "experts", "top_k"), CASES)
def test_ids_weights_and_logits(tokens, hidden, experts, top_k, renormalize, generator, device, beyond):
    x, weight = make(tokens, hidden, experts, generator, device)
    ids = torch.full((tokens, top_k), -7, dtype=torch.int32, device=device)
    weights = torch.full((tokens, top_k), float("nan"), device=device)
    logits = torch.full((tokens, experts), float("nan"), device=device)
    router(x, weight, top_k=top_k, renormalize=renormalize, logits_out=logits, out_ids=ids, out_weights=weights)
    _, _, want_logits = router_reference(x, weight, top_k=top_k, renormalize=renormalize)
    assert beyond(logits, want_logits, logit_bound(x, weight)) == 0
    # The ids are exact for the logits the kernel has; whether those are right is the line above.
    assert torch.equal(ids.cpu(), ranked(logits, top_k))
    want = want_logits.softmax(dim=1).gather(1, ids.long())
    want = want / want.sum(dim=1, keepdim=True) if renormalize else want
    assert beyond(weights, want, weight_bound(want, x, weight)) == 0
    off = router(x, weight, top_k=top_k, renormalize=renormalize)
    assert torch.equal(off[0], ids)
    assert torch.equal(off[1], weights)


def test_renormalization_missing_would_be_seen(generator, device, beyond):
    """Planted defect: weights that are not divided by their sum."""
    x, weight = make(10, 64, 12, generator, device)
    _, got = router(x, weight, top_k=2, renormalize=False)
    _, want, _ = router_reference(x, weight, top_k=2, renormalize=True)
    assert beyond(got, want, weight_bound(want, x, weight)) == got.numel()


def test_ties_go_to_the_lower_id(generator, device):
    x, weight = make(20, 64, 12, generator, device)
    weight[3:] = weight[3]  # experts 3 .. 11 are equal, bit for bit
    logits = torch.empty(20, 12, device=device)
    ids, weights = router(x, weight, top_k=12, renormalize=False, logits_out=logits)
    assert (logits[:, 3:] == logits[:, 3:4]).all()
    assert torch.equal(ids.cpu(), ranked(logits, 12))
    assert (weights[:, :-1] >= weights[:, 1:]).all()
    # Planted defect: ties to the higher id.
    assert not torch.equal(ids.cpu(), 11 - ranked(logits.flip(1), 12))


def test_all_equal_logits(device):
    x = torch.zeros(3, 32, dtype=torch.bfloat16, device=device)
    weight = torch.ones(12, 32, dtype=torch.bfloat16, device=device)
    ids, weights = router(x, weight, top_k=2, renormalize=False)
    assert ids.tolist() == [[0, 1]] * 3
    assert torch.allclose(weights.cpu(), torch.full((3, 2), 1 / 12), rtol=2.0**-20, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_ids_stay_valid_when_logits_are_not_finite(bad, generator, device):
    """Ids index memory: whatever the logits are, they are distinct and within 0 .. E-1. Other tokens do not notice."""
    x, weight = make(4, 32, 12, generator, device)
    want, _ = router(x, weight, top_k=3, renormalize=True)
    x[1] = bad
    ids, weights = router(x, weight, top_k=3, renormalize=True)
    assert all(len(set(row)) == 3 and set(row) <= set(range(12)) for row in ids.tolist())
    assert torch.equal(ids[[0, 2, 3]], want[[0, 2, 3]])
    assert weights[1].isnan().any()


def test_strided_rows(generator, device):
    x, weight = make(6, 64, 12, generator, device)
    wide = torch.cat([x, x], dim=1)
    got, want = (router(y, weight, top_k=2, renormalize=True) for y in (wide[:, :64], x))
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


def test_misuse_raises_before_launch(generator, device):
    x, weight = make(4, 32, 12, generator, device)
    with pytest.raises(ShapeError, match="top_k"):
        router(x, weight, top_k=13, renormalize=True)
    with pytest.raises(DtypeError, match="weight"):
        router(x, weight.float(), top_k=2, renormalize=True)
    with pytest.raises(ShapeError, match="contiguous"):
        router(x.T.contiguous().T, weight, top_k=2, renormalize=True)
    with pytest.raises(DtypeError, match="logits_out"):
        router(x, weight, top_k=2, renormalize=True, logits_out=torch.empty(4, 12, dtype=torch.bfloat16, device=device))


@pytest.mark.parametrize("tokens", [1, 31, 33, 1025])
def test_launch_covers(tokens):
    assert not router_launch(n_tokens=tokens, n_experts=12, hidden=384).truncated
