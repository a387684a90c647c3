"""A dozen of the faults, of every kind; `make mutants` strikes with all of them."""

from __future__ import annotations

import pytest
from mutants.fault import Fault
from mutants.faults import FAULTS
from mutants.networks import SUBJECTS
from mutants.strike import CAUGHT, NO_EFFECT, SURVIVED, clean_deployment, strike

DOZEN = (
    "ReLU6 for ReLU",
    "thresholds 1e-6 higher",
    "-1 for the zeros behind a ReLU",
    "float32: states of one shape swapped",
    "float32: one weight of a linear layer off by 2e-5",
    "writer: RELU6 for RELU in a convolution",
    "writer: a tie gives -1 in packed outputs",
    "writer: a transposition left out",
    "writer: copies before operators that run in place left out",
    "writer: names of two output states swapped",
    "file: lowest bit of a weight",
    "file: names of two states",
    "weights: one running variance changed after the export",
)


@pytest.mark.parametrize("name", DOZEN)
def test_fault_is_noticed(name: str) -> None:
    outcome = strike(FAULTS[name])
    assert outcome.verdict == CAUGHT, outcome


@pytest.mark.parametrize("subject", SUBJECTS)
def test_networks_pass_without_a_fault(subject: str) -> None:
    clean_deployment(subject).verify().check()


def test_list_strikes_everywhere() -> None:
    assert len(FAULTS) >= 60
    assert {fault.place for fault in FAULTS.values()} == {
        "lowering", "float32", "writer", "patch", "file", "weights"
    }  # fmt: skip
    assert {fault.subject for fault in FAULTS.values()} == set(SUBJECTS)


def test_a_fault_without_effect_is_told_from_a_survivor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert strike(Fault("nothing", "writer", "ties", lambda builder: None)).verdict == NO_EFFECT
    monkeypatch.setattr("binmat.pipeline.deployment.Deployment.verify", lambda self, content: Passes())
    assert strike(FAULTS["writer: a tie gives -1 in packed outputs"]).verdict == SURVIVED


class Passes:
    """A verification that notices nothing."""

    def check(self) -> None:
        pass
