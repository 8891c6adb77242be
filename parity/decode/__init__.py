"""Do two engines decode alike, does a sampler do what it was asked, and from which prompt length on does it break?"""

from __future__ import annotations

from parity.decode.choices import examine_sampler, examine_under_ban
from parity.decode.comparison import DecodingComparison, DecodingVerdict
from parity.decode.divergence import Choice, Parting
from parity.decode.draws import Departure, DrawCheck, check_draws
from parity.decode.growth import Growth, growth_of
from parity.decode.noise import Noise, noise_measured, noise_of_emulation, noise_of_floor
from parity.decode.pairs import PairedDifference, compare_pairs, sign_test
from parity.decode.penalty import PenaltyRange, fit_penalties
from parity.decode.reference import Reference, decode_reference
from parity.decode.residual import ResidualScale, falsify_residual_scale
from parity.decode.sampled import SampledComparison, compare_sampled
from parity.decode.sampler import SamplerCheck, check_sampler
from parity.decode.second import compare_decoding, exchange_halves
from parity.decode.side import Forced, continue_greedily, force
from parity.decode.sweep import Sweep, Tried, judge_symptom, shortest_prompt

__all__ = [
    "Choice",
    "DecodingComparison",
    "DecodingVerdict",
    "Departure",
    "DrawCheck",
    "Forced",
    "Growth",
    "Noise",
    "PairedDifference",
    "Parting",
    "PenaltyRange",
    "Reference",
    "ResidualScale",
    "SampledComparison",
    "SamplerCheck",
    "Sweep",
    "Tried",
    "check_draws",
    "check_sampler",
    "compare_decoding",
    "compare_pairs",
    "compare_sampled",
    "continue_greedily",
    "decode_reference",
    "examine_sampler",
    "examine_under_ban",
    "exchange_halves",
    "falsify_residual_scale",
    "fit_penalties",
    "force",
    "growth_of",
    "judge_symptom",
    "noise_measured",
    "noise_of_emulation",
    "noise_of_floor",
    "shortest_prompt",
    "sign_test",
]
