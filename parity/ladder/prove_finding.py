"""What do the grafts make of a finding, and what is it worth where they cannot be run?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from parity.ladder.prove import Proof, prove, sites_of
from parity.records import Finding, split_site


def prove_finding(sut: Any, finding: Finding, **evidence: Any) -> tuple[Finding, Proof | None]:
    """The finding with its proof, and with the layers that the proof unmasked.

    evidence: what `prove` takes besides the SUT and the sites. Where the grafts cannot be run to their end the finding
    stands as it was, unproved, and its proof says why; the proof itself is then None.
    """
    try:
        proof = prove(sut, sites=sites_of(finding), **evidence)
    # Grafts run an engine in ways that no prompt does, and the engine is anybody's: whatever it raises there says
    # nothing against the evidence that the finding rests on.
    except Exception as error:
        why = f"The proof could not be run: {type(error).__name__}: {error}"
        return replace(finding, proof={"proved": False, "sentence": why}), None
    layers = _with_unmasked(finding, proof)
    more = [str(layer) for layer in layers if layer not in finding.layers]
    sentence = finding.sentence
    if more:
        sentence += (
            f" Once that is mended, {finding.stage} of layer{'s' * (len(more) > 1)} {', '.join(more)} adds error too."
        )
    return replace(finding, proof=proof.as_evidence(), layers=layers, sentence=sentence), proof


def _with_unmasked(finding: Finding, proof: Proof) -> tuple[int, ...]:
    """The finding's layers, and those where its stage was seen to add error once the earlier ones were mended."""
    hidden = [layer for layer, stage in map(split_site, proof.unmasked) if stage == finding.stage and layer is not None]
    return tuple(sorted({*finding.layers, *hidden}))
