"""What a machine lacks is said with what to do about it."""

import shutil
from collections import namedtuple

import pytest

from fgaa_utils.pipeline import doctor

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with so much memory (GiB), free disk (GB), so many cores, and with or without bfloat16."""

    def make(memory=16.0, disk=100.0, cores=2, bf16=True):
        meminfo = tmp_path / "meminfo"
        meminfo.write_text(f"MemTotal:       {int(memory * 2**20)} kB\nMemFree:        1 kB\n")
        monkeypatch.setattr(doctor, "MEMINFO", meminfo)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, disk * 1e9))
        monkeypatch.setattr(doctor, "cores", lambda: cores)
        monkeypatch.setattr(doctor, "processor", lambda: {"name": "AMD", "bf16": bf16})
        return {finding.what: finding for finding in doctor.findings()}

    return make


def test_a_machine_that_is_enough_gets_no_advice(machine):
    found = machine()
    assert [finding.advice for finding in found.values()] == [""] * 6
    assert found["memory"].found == "16.0 GiB" and found["free disk"].found == "100 GB" and found["cores"].found == "2"


@pytest.mark.parametrize(
    "lack, what, advice",
    [
        ({"memory": 4.0}, "memory", "8 GiB are needed: set design.batch"),
        ({"disk": 3.0}, "free disk", "15 GB are needed: free some"),
        ({"cores": 1}, "cores", "with fewer cores than were measured"),
        ({"bf16": False}, "processor", "several times as long"),
    ],
)
def test_what_is_lacking_is_said(machine, lack, what, advice):
    found = machine(**lack)
    assert advice in found[what].advice and sum(bool(f.advice) for f in found.values()) == 1


def test_memory_that_the_system_does_not_tell(machine, monkeypatch, tmp_path):
    machine()
    monkeypatch.setattr(doctor, "MEMINFO", tmp_path / "none")
    assert doctor.memory_gib() is None
    assert {f.what: f.found for f in doctor.findings()}["memory"] == "not told by the system"


def test_the_time_is_that_of_the_committed_run_without_frozen_stages():
    made = {"data": {"seconds": 60, "processor": "AMD"}, "samples": {"resumed_seconds": 120}, "sae": {"seconds": 9999}}
    assert doctor.expected(made) == "make repro: 3 min in the committed run, on AMD"


def test_the_exit_status_is_that_of_what_is_needed(machine, capsys):
    machine(memory=2.0)
    with pytest.raises(SystemExit) as stopped:
        doctor.main()
    assert stopped.value.code is True and "GiB are needed" in capsys.readouterr().out
