"""Checks of a guide against the model whose posterior it approximates."""

from multipyro.inference.evaluation.checks.calibration import Calibration, Simulation, calibrate, simulate
from multipyro.inference.evaluation.checks.gaps import InferenceGap, inference_gap
from multipyro.inference.evaluation.checks.guide_check import GuideCheck, SubsetCheck, check_guide
from multipyro.inference.evaluation.checks.two_sample import TwoSampleTest, two_sample_test
from multipyro.inference.evaluation.checks.uniformity import UniformityTest
from multipyro.inference.evaluation.checks.verdicts import Verdict

__all__ = [
    "Calibration",
    "GuideCheck",
    "InferenceGap",
    "Simulation",
    "SubsetCheck",
    "TwoSampleTest",
    "UniformityTest",
    "Verdict",
    "calibrate",
    "check_guide",
    "inference_gap",
    "simulate",
    "two_sample_test",
]
